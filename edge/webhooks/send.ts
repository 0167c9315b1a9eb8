/** One call of a receiver. */
import { LIMITS } from '../../shared/contract/limits.ts';
import { webhookHeaders } from '../../shared/wire/webhookSignature.ts';
import { type Egress, fetchTarget } from '../egress/fetch.ts';
import { checkTarget } from '../egress/target.ts';
import { type AttemptResult, retryAfterMs } from './retry.ts';

const W = LIMITS.webhooks;

/** What a call needs of its surroundings; tests give their own. */
export type SendContext = {
  egress: Egress;
  nowMs: () => number;
  /** One hop that follows no redirects. */
  fetch?: typeof fetchTarget;
  /** Aborts after so long. */
  timeout?: (ms: number) => AbortSignal;
};

/** `error` is one of a few sentences, the same whatever is behind an address: the answer to a client must not tell what is open and what is not. */
export type SendResult = AttemptResult & { error: string | null; response: string | null; durationMs: number };

/**
 * Sends a body to a URL, signed with each of the secrets. The address is judged again at every call: the allow-list may have shrunk since the endpoint was
 * made. The receiver has 15 s for its whole answer, of which at most 64 kB are read.
 */
export async function send(
  context: SendContext,
  call: { id: string; url: string; body: string; secrets: readonly string[] },
): Promise<SendResult> {
  const { egress, nowMs, fetch: hop = fetchTarget, timeout = (ms) => AbortSignal.timeout(ms) } = context;
  const startedMs = nowMs();
  const done = (result: Partial<SendResult>): SendResult => ({
    status: null,
    retryAfterMs: null,
    error: null,
    response: null,
    ...result,
    durationMs: Math.max(0, nowMs() - startedMs),
  });
  const target = checkTarget(call.url, egress.allowed);
  if ('problem' in target) return done({ error: target.problem });
  const signed = await webhookHeaders(call.id, Math.floor(startedMs / 1000), call.body, ...call.secrets);
  const signal = timeout(W.timeoutMs);
  try {
    const answer = await hop(egress, target, {
      method: 'POST',
      body: call.body,
      headers: { ...signed, 'content-type': 'application/json', 'user-agent': 'mantis-edge-webhooks/1' },
      signal,
    });
    const { status } = answer;
    const error = answer.ok ? null : `status ${status}`;
    const response = await firstOf(answer, signal);
    return done({
      status,
      retryAfterMs: retryAfterMs(status, answer.headers.get('retry-after'), nowMs()),
      error,
      response,
    });
  } catch {
    return done({ error: signal.aborted ? `no answer within ${W.timeoutMs / 1000} s` : 'the connection failed' });
  }
}

/** The first bytes of an answer as text. What is longer than that is read a little further, so that the connection can be used again, then cut off. */
async function firstOf({ body }: Response, signal: AbortSignal): Promise<string | null> {
  if (body === null) return null;
  const reader = body.getReader();
  const kept: Uint8Array[] = [];
  let bytes = 0;
  // A runtime may have let go of the signal once the headers were there.
  const cut = () => void reader.cancel().catch(() => {});
  signal.addEventListener('abort', cut);
  try {
    while (bytes < W.maxAnswerBytes) {
      const { done, value } = await reader.read();
      if (done) break;
      if (bytes < W.keptAnswerBytes) kept.push(value.subarray(0, W.keptAnswerBytes - bytes));
      bytes += value.byteLength;
    }
  } catch {
    // The status is what counts; it came before.
  } finally {
    signal.removeEventListener('abort', cut);
    cut();
  }
  const decoder = new TextDecoder();
  const text = kept.map((part) => decoder.decode(part, { stream: true })).join('');
  return text === '' ? null : text;
}
