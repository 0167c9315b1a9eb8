/** How many tokens a prompt takes, told by the backend that would read it: the same code lays it out. No picture travels, only sizes. */
import { CountResponse, type GenerateRequest } from '../../shared/contract/backend.ts';
import { encodeFrame, FRAME_TYPE } from '../../shared/wire/frame.ts';
import type { Env } from '../env.ts';
import { callBackend } from '../fleet/call.ts';
import { refusalOf } from '../fleet/failure.ts';
import type { KnownModel } from '../fleet/models.ts';
import { liveBackends } from '../fleet/registry.ts';

/** A count is milliseconds of work; a backend that takes longer is no reason to keep the request from its queue. */
const TIMEOUT_MS = 5_000;

export type Sized = { readonly width: number; readonly height: number };

/**
 * Asks one of the model's backends. Nothing is queued there and no place is taken.
 * @param pictures sizes of the request's blobs, upright pixels
 * @param options texts to be scored, counted too
 * @returns null where no backend can be asked now
 * @throws ApiError where the backend finds that the prompt can never be read
 */
export async function countPrompt(
  env: Env,
  { card }: Pick<KnownModel, 'card'>,
  request: GenerateRequest,
  pictures: readonly Sized[],
  options?: readonly string[],
): Promise<CountResponse | null> {
  // A fine-tune reads as its base does, whose tokenizer is always at hand.
  const { adapter: _, ...rest } = request;
  const header = {
    ...rest,
    model: card.id,
    pictures: pictures.map(({ width, height }) => ({ width, height })),
    options,
  };
  const body = encodeFrame({ ...header, blobs: [] }, []);
  const serving = (await liveBackends(env)).filter(({ report }) => report.models.some(({ id }) => id === card.id));
  const from = Math.floor(Math.random() * serving.length);
  for (const { report } of [...serving.slice(from), ...serving.slice(0, from)].slice(0, 2)) {
    let response: Response;
    try {
      response = await callBackend(env, report, {
        method: 'POST',
        path: '/v1/count',
        type: FRAME_TYPE,
        body,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      continue; // gone or too busy: another one, or none
    }
    if (response.status >= 500) {
      await response.body?.cancel();
      continue;
    }
    if (!response.ok) throw await refusalOf(response, request);
    // One that cannot count may still be able to answer, and judges the prompt itself then.
    const parsed = CountResponse.safeParse(await response.json().catch(() => null));
    if (parsed.success) return parsed.data;
  }
  return null;
}
