import * as z from 'zod/mini';
import { ContentPart } from './chat.ts';
import { LIMITS } from './limits.ts';

/** A turn of a training example; the parts are those of a chat request. */
export const DatasetMessage = z.strictObject({
  role: z.enum(['system', 'user', 'assistant']),
  content: z.union([
    z.string().check(z.maxLength(LIMITS.request.maxTextChars)),
    z.array(ContentPart).check(z.minLength(1), z.maxLength(LIMITS.request.maxPartsPerMessage)),
  ]),
  name: z.optional(z.string()),
  /** Turns are all learned from; leaving one out is not built yet and therefore refused. */
  weight: z.optional(z.literal(1)),
});
export type DatasetMessage = z.infer<typeof DatasetMessage>;

/** One line of a training file (JSON Lines): a conversation whose assistant turns are learned. Pictures are in user turns only. */
export const DatasetLine = z.strictObject({
  messages: z.array(DatasetMessage).check(z.minLength(1), z.maxLength(LIMITS.request.maxMessages)),
});
export type DatasetLine = z.infer<typeof DatasetLine>;
