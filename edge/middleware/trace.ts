/** W3C Trace Context and the times of a request, in the headers that browsers' and tracers' tools read. */
import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from '../env.ts';
import type { RequestFacts } from '../metrics/facts.ts';

export type Trace = {
  /** 32 hex digits; the caller's where it sent a trace. */
  readonly id: string;
  /** What is passed on: the same trace with our span as the parent. */
  readonly traceparent: string;
};

/** Version 00, or a later one whose first four fields have the same form; neither id may be all zeros. */
const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?$/;

/** Goes on with the caller's trace, or begins one where there is none or none that can be read. */
export function traceOf(given: string | undefined): Trace {
  const match = given === undefined || given.length > 512 ? null : TRACEPARENT.exec(given);
  const isOurs = match !== null && !(match[1] === '00' && match[4] !== undefined);
  const random = hex(crypto.getRandomValues(new Uint8Array(24)));
  const id = isOurs ? (match[2] ?? '') : random.slice(0, 32);
  // Of the flags only `sampled` is known to version 00; a trace that begins here is recorded by nobody but the logs.
  const sampled = isOurs && (Number.parseInt(match[3] ?? '0', 16) & 1) === 1;
  return { id, traceparent: `00-${id}-${random.slice(32)}-0${sampled ? 1 : 0}` };
}

function hex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0');
  return text;
}

/**
 * Sets `trace` for logs and for calls to backends, and answers with `traceparent`, `server-timing` (what is known when the headers go out) and OpenAI's
 * `openai-processing-ms`.
 */
export function trace(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const startMs = Date.now();
    const own = traceOf(c.req.header('traceparent'));
    c.set('trace', own);
    const facts = c.get('facts');
    facts.traceparent = own.traceparent;
    await next();
    const totalMs = Date.now() - startMs;
    const { headers } = c.res;
    headers.set('traceparent', own.traceparent);
    headers.set('openai-processing-ms', String(totalMs));
    headers.set('server-timing', serverTiming([...timesOf(facts), ['total', totalMs]]));
  };
}

function timesOf(facts: RequestFacts): (readonly [string, number | null])[] {
  return [
    ['validate', facts.validateMs],
    ['queue', facts.queueMs],
    ['ttft', facts.firstTokenMs],
  ];
}

/** `validate;dur=3, queue;dur=0, total;dur=41`; what is not known is left out. */
export function serverTiming(times: readonly (readonly [name: string, ms: number | null])[]): string {
  return times
    .filter(([, ms]) => ms !== null)
    .map(([name, ms]) => `${name};dur=${ms}`)
    .join(', ');
}
