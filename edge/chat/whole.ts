import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { relay } from '../middleware/relay.ts';
import type { BegunAnswer } from './complete.ts';

const F = LIMITS.fleet;

/**
 * The response of a whole answer. workerd looks at a client's connection only when it writes to it, so one on which a backend has worked for a moment
 * begins with white space, which JSON allows: a client that hangs up is then noticed, and the backend freed. From then on the status is 200 whatever
 * comes: an answer that breaks for good after all has the error envelope in its place.
 * @param abort frees the backend
 * @throws ApiError where the answer breaks before
 */
export function wholeResponse(begun: BegunAnswer, abort: () => void): Promise<Response> {
  const headers = { 'content-type': 'application/json', ...begun.headers };
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    let isCommitted = false;
    const stop = () => clearTimeout(timer);
    const commit = () => {
      isCommitted = true;
      resolve(new Response(spacedOut(answer, abort), { headers }));
    };
    // Only while a backend works on it is there anything to free, and only then is the answer likely to come.
    const onBegin = () => {
      stop();
      if (!isCommitted) timer = setTimeout(commit, F.wholePingAfterMs);
    };
    const answer = begun.whole({ onBreak: stop, onBegin });
    answer.finally(stop).then(
      (value) => isCommitted || resolve(new Response(JSON.stringify(value), { headers })),
      (error: unknown) => isCommitted || reject(error),
    );
  });
}

/** White space now and then, then the answer. */
function spacedOut(answer: Promise<unknown>, abort: () => void): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return relay(async (send) => {
    const ping = () => void send(encoder.encode(' ')).catch(() => {});
    ping();
    const pinger = setInterval(ping, F.wholePingEveryMs);
    const value = await answer.catch((error: unknown) => {
      if (error instanceof ApiError) return error.envelope();
      console.error(JSON.stringify({ level: 'error', event: 'whole_answer', error: String(error) }));
      return new ApiError('server_error', 'The answer broke. Try again.').envelope();
    });
    clearInterval(pinger);
    await send(encoder.encode(JSON.stringify(value)));
  }, abort);
}
