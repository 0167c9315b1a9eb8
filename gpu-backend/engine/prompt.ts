import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { type Layout, LayoutError, layoutConversation, type Message } from '../text/layout.ts';
import type { ModelFront } from './model-front.ts';

/**
 * Messages of a request; an image part refers to its blob.
 * @param blobs the pictures, or what stands for them: only how many there are is looked at
 * @throws ApiError for blobs that do not exist and too many images
 */
export function readMessages(
  request: GenerateRequest,
  blobs: readonly unknown[],
  { card }: Pick<ModelFront, 'card'>,
): readonly Message[] {
  const images = imagePaths(request);
  if (images.length > card.maxImages)
    throw new ApiError(
      'too_many_images',
      `messages: expected at most ${card.maxImages} images for ${card.id}, received ${images.length}. Send fewer.`,
      { param: images[card.maxImages] ?? 'messages' },
    );
  return request.messages.map(({ role, parts }, m) => ({
    role,
    parts: parts.map((part, p) => {
      if (part.type === 'text') return part;
      if (blobs[part.blob] === undefined)
        throw new ApiError(
          'invalid_value',
          `messages[${m}].parts[${p}].blob: expected 0 … ${blobs.length - 1}, received ${part.blob}.`,
        );
      return { type: 'image' as const, image: part.blob };
    }),
  }));
}

/**
 * @param slotOf ids of the slot of the picture in a blob
 * @throws ApiError for what the client can mend, e.g. the order of roles
 */
export function layOut(
  messages: readonly Message[],
  front: ModelFront,
  slotOf: (blob: number) => readonly number[],
): Layout {
  try {
    return layoutConversation(messages, {
      tokenizer: front.tokenizer,
      template: front.template,
      tokensPerImage: slotOf,
      imageTokenId: front.imageTokenId,
      addGenerationPrompt: true,
    });
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    throw new ApiError('invalid_value', error.message, { param: error.path });
  }
}

/** Where each image stands, in the request's own words; the edge turns `parts` into the client's `content`. */
export function imagePaths(request: GenerateRequest): string[] {
  return request.messages.flatMap(({ parts }, m) =>
    parts.flatMap(({ type }, p) => (type === 'image' ? [`messages[${m}].parts[${p}]`] : [])),
  );
}
