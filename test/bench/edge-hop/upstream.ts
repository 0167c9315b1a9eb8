/**
 * The least a backend can be: reads the frame, answers in the inner protocol without a model. It is what the door is measured against, so it must cost
 * next to nothing; in a process of its own. `max_tokens` 1 is answered at once, more come one each `TOKEN_MS` with the time they were sent as text.
 * The first frames of a run are checked whole (signature, digests), so that a door that sends rubbish quickly is found out.
 *
 *     fork(upstream.ts, [edgeUrl, secret]) → message {port}; then messages 'stats' → {received, checked, pictures, bad}
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { decodeFrame } from '../../../shared/wire/frame.ts';
import { signatureHeaders, verifyHeaders } from '../../../shared/wire/signature.ts';
import { encodeSseJson } from '../../../shared/wire/sse.ts';
import { TOKEN_MS, UPSTREAM_CARD } from './card.ts';

const CHECKED_FRAMES = 64;
const [edgeUrl = '', secret = ''] = process.argv.slice(2);
const stats = { received: 0, checked: 0, pictures: 0, bad: [] as string[] };

const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
  serve(request, response).catch((error: unknown) => {
    stats.bad.push(String(error));
    response.destroy();
  });
});

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  await new Promise<void>((resolve, reject) => {
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', resolve);
    request.on('error', reject);
  });
  if (request.url === '/v1/wake') return void response.writeHead(202).end();
  const body = Buffer.concat(chunks);
  stats.received++;
  if (stats.checked < CHECKED_FRAMES) await check(request, body);
  const tokens = maxTokens(body);
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const started = { type: 'started', promptTokens: 5, imageTokens: [64, 64] };
  const usage = { promptTokens: 5, completionTokens: tokens, imageTokens: 128, cachedTokens: 0 };
  const finished = { type: 'finished', index: 0, finishReason: 'length', usage };
  const delta = (text: string) => encodeSseJson({ type: 'delta', index: 0, text });
  if (tokens <= 1) return void response.end(encodeSseJson(started) + delta('a') + encodeSseJson(finished));
  response.write(encodeSseJson(started));
  let sent = 0;
  const startMs = performance.now();
  const next = (): void => {
    if (response.destroyed) return;
    response.write(delta(`${process.hrtime.bigint()} `));
    if (++sent >= tokens) return void response.end(encodeSseJson(finished));
    setTimeout(next, Math.max(0, startMs + (sent + 1) * TOKEN_MS - performance.now()));
  };
  setTimeout(next, TOKEN_MS);
}

/** Without parsing the whole header: it is on everybody's way. */
function maxTokens(body: Buffer): number {
  const head = body.subarray(4, 4 + body.readUInt32LE(0)).toString('latin1');
  return Number(/"maxTokens":(\d+)/.exec(head)?.[1] ?? 1);
}

async function check(request: IncomingMessage, body: Buffer): Promise<void> {
  stats.checked++;
  const verdict = await verifyHeaders({
    secret,
    method: request.method ?? '',
    target: request.url ?? '',
    header: (name) => request.headers[name] as string | undefined,
    nowS: Date.now() / 1000,
    toleranceS: LIMITS.backends.signatureToleranceS,
  });
  if (!verdict.ok) stats.bad.push(verdict.reason);
  const { header, blobs } = decodeFrame(body, { maxHeaderBytes: 1 << 22, maxBlobs: 64, maxBlobBytes: 1 << 24 });
  for (const [i, blob] of blobs.entries()) {
    const digest = `sha256:${createHash('sha256').update(blob).digest('hex')}`;
    if (header.blobs[i]?.digest !== digest) stats.bad.push(`picture ${i} is not the one that its digest names`);
    stats.pictures++;
  }
}

async function report(): Promise<void> {
  const path = '/internal/backends/register';
  const { port } = server.address() as AddressInfo;
  const body = JSON.stringify({
    id: 'bench-upstream',
    url: `http://127.0.0.1:${port}`,
    models: [UPSTREAM_CARD],
    capacity: 4_096,
    inFlight: 0,
    state: 'ready',
  });
  const signed = await signatureHeaders({ secret, method: 'POST', target: path, body, nowS: Date.now() / 1000 });
  const answer = await fetch(edgeUrl + path, {
    method: 'POST',
    headers: { ...signed, 'content-type': 'application/json' },
    body,
  });
  if (!answer.ok) throw new Error(`the edge refused the upstream: ${answer.status} ${await answer.text()}`);
}

server.listen(0, '127.0.0.1', async () => {
  await report();
  setInterval(() => void report().catch((error: unknown) => stats.bad.push(String(error))), 2_000);
  process.send?.({ port: (server.address() as AddressInfo).port });
});
process.on('message', (message) => {
  if (message === 'stats') process.send?.(stats);
});
process.on('disconnect', () => process.exit());
