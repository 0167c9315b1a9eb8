/** A request's answer from whichever backend gives it: events of a generation, or scores. */
import {
  type BackendScoreRequest,
  BackendScoreResponse,
  GenerateEvent,
  type GenerateRequest,
} from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { decodeSse } from '../../shared/wire/sse.ts';
import type { Env } from '../env.ts';
import type { Blob } from '../images/transfer.ts';
import { Errand, type ErrandOptions, type Reached } from './errand.ts';
import { backendDied, backendError } from './failure.ts';

export type AnswerOptions = Omit<ErrandOptions, 'path'> & {
  /**
   * Nothing is passed on before the answer is whole, so an answer that breaks may be started anew: `started` then comes again, and what came before it
   * is void. Otherwise that is done only as long as nothing was said.
   */
  whole: boolean;
};

type Events = AsyncGenerator<GenerateEvent, void, undefined>;

/**
 * Sends a generation to the fittest backend.
 * @returns its events; the first one has already arrived, so that refusals still become a plain HTTP error. Errors in them are thrown as ApiErrors.
 * @throws ApiError for every way in which no answer comes
 */
export async function generate(
  env: Env,
  request: GenerateRequest,
  blobs: readonly Blob[],
  options: AnswerOptions,
): Promise<Events> {
  const errand = new Errand(env, request, blobs, { ...options, path: '/v1/generate' });
  const source = answer(errand, options.whole);
  const first = await source.next();
  if (first.done === true) throw backendDied(request, 'no event');
  return (async function* () {
    try {
      yield first.value;
      yield* source;
    } finally {
      await source.return();
    }
  })();
}

/** Has the fittest backend score options. @throws ApiError for every way in which no answer comes */
export async function score(
  env: Env,
  request: BackendScoreRequest,
  blobs: readonly Blob[],
  options: Omit<ErrandOptions, 'path'>,
): Promise<BackendScoreResponse> {
  const errand = new Errand(env, request, blobs, { ...options, path: '/v1/score' });
  for (;;) {
    const reached = await errand.reach();
    let died: ApiError;
    try {
      const parsed = BackendScoreResponse.safeParse(await reached.response.json());
      if (parsed.success) {
        reached.onFirstEvent();
        reached.release('done');
        const { promptTokens, completionTokens, cachedTokens } = parsed.data.usage;
        Object.assign(options.facts, { promptTokens, completionTokens, cachedTokens });
        return parsed.data;
      }
      died = backendDied(request, 'scores that are not in the contract');
    } catch (error) {
      died = backendDied(request, error);
    }
    reached.release(options.abort.signal.aborted ? 'aborted' : 'failed');
    errand.giveUp(reached.backend, died);
  }
}

/** Events up to `finished`. Leaving the loop gives the place back and closes the backend's connection. */
async function* answer(errand: Errand, whole: boolean): Events {
  let hasStarted = false;
  let hasSpoken = false;
  for (;;) {
    const reached = await errand.reach();
    let died: ApiError | null = null;
    try {
      for await (const event of events(reached)) {
        reached.onFirstEvent();
        if (event.type === 'error') throw backendError(event.error, errand.request);
        if (event.type === 'started' && hasStarted && !whole) continue;
        hasStarted = true;
        if (event.type === 'finished') reached.release('done');
        yield event;
        if (event.type === 'finished') return;
        if (!hasSpoken && event.type !== 'started' && !whole) {
          hasSpoken = true;
          errand.blobs = [];
        }
      }
      died = backendDied(errand.request, 'stream ended without a finished event');
    } catch (error) {
      if (error instanceof ApiError && error.code !== 'backend_failed') {
        // It has judged the request (or run out of time), which says nothing against it.
        reached.release(error.status >= 500 && error.status !== 504 ? 'failed' : 'aborted');
        throw error;
      }
      died = error instanceof ApiError ? error : backendDied(errand.request, error);
    } finally {
      // Left early by the reader, unless it failed.
      reached.release(died === null || errand.options.abort.signal.aborted ? 'aborted' : 'failed');
    }
    if (hasSpoken) throw died;
    errand.options.onBreak?.();
    errand.giveUp(reached.backend, died);
  }
}

/** Decodes and checks each event; comments (pings) vanish here. */
async function* events({ response }: Reached): Events {
  if (response.body === null) return;
  for await (const { data } of decodeSse(response.body)) {
    const parsed = GenerateEvent.safeParse(JSON.parse(data));
    if (!parsed.success) throw new Error(`backend sent an event that is not in the contract: ${data.slice(0, 200)}`);
    yield parsed.data;
    if (parsed.data.type === 'finished' || parsed.data.type === 'error') return;
  }
}
