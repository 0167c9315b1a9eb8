import assert from 'node:assert/strict';
import { z } from 'zod';

const Envelope = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string(),
    details: z.array(z.object({ code: z.string(), param: z.string().nullable(), line: z.int().optional() })).optional(),
  }),
});

export interface Refusal {
  readonly status: number;
  readonly code: string;
  readonly param?: string | null;
  /** Must be in the message: the limit, the value that came, the line. */
  readonly says?: readonly (string | RegExp)[];
}

/** Asserts status, code, field and words of a refusal, and that nothing of our insides is in it. */
export async function assertRefused(response: Response, refusal: Refusal): Promise<z.infer<typeof Envelope>['error']> {
  const text = await response.text();
  const { error } = Envelope.parse(JSON.parse(text));
  assert.equal(response.status, refusal.status, text);
  assert.equal(error.code, refusal.code, text);
  if (refusal.param !== undefined) assert.equal(error.param, refusal.param, text);
  for (const words of refusal.says ?? []) {
    assert.ok(
      typeof words === 'string' ? error.message.includes(words) : words.test(error.message),
      `${words}: ${text}`,
    );
  }
  assert.doesNotMatch(text, /node_modules|\.ts:\d|\bat \w+ \(/, 'no stack and no path');
  return error;
}
