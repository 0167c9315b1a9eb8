import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';

const F = LIMITS.fleet;

/**
 * The response of a whole answer. workerd looks at a client's connection only when it writes to it, so one that takes long begins with white space,
 * which JSON allows: a client that hangs up is then noticed, and the backend freed. From then on the status is 200 whatever comes: an answer that
 * breaks after all has the error envelope in its place.
 */
export async function wholeResponse(
  answer: Promise<unknown>,
  abort: () => void,
  headers: Record<string, string>,
): Promise<Response> {
  const early = await Promise.race([answer.then((value) => ({ value })), after(F.wholePingAfterMs)]);
  const type = { 'content-type': 'application/json', ...headers };
  if (early !== null) return new Response(JSON.stringify(early.value), { headers: type });
  const encoder = new TextEncoder();
  let pinger: ReturnType<typeof setInterval> | null = null;
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const ping = () => controller.enqueue(encoder.encode(' '));
      ping();
      pinger = setInterval(ping, F.wholePingEveryMs);
      answer
        .catch((error: unknown) => {
          if (error instanceof ApiError) return error.envelope();
          console.error(JSON.stringify({ level: 'error', event: 'whole_answer', error: String(error) }));
          return new ApiError('server_error', 'The answer broke. Try again.').envelope();
        })
        .then((value) => {
          clearInterval(pinger);
          controller.enqueue(encoder.encode(JSON.stringify(value)));
          controller.close();
        })
        // The client has left meanwhile.
        .catch(() => {});
    },
    cancel() {
      clearInterval(pinger);
      abort();
    },
  });
  return new Response(body, { headers: type });
}

function after(ms: number): Promise<null> {
  return new Promise((resolve) => setTimeout(() => resolve(null), ms));
}
