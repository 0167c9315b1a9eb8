/**
 * The least a backend can be: reads the frame, answers in the inner protocol without a model. It is what the door is measured against, so it must cost
 * next to nothing; in a process of its own. `max_tokens` 1 is answered at once, more come one each `TOKEN_MS` with the time they were sent as text.
 * The first frames of a run are checked whole (signature, digests), so that a door that sends rubbish quickly is found out.
 *
 *     fork(upstream.ts, [edgeUrl, secret]) → message {port}; then messages 'stats' → {received, checked, pictures, bad}
 */
import { createHash } from 'node:crypto';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { decodeFrame } from '../../../shared/wire/frame.ts';
import { signatureHeaders, verifyHeaders } from '../../../shared/wire/signature.ts';
import { encodeSseJson } from '../../../shared/wire/sse.ts';
import { TOKEN_MS, UPSTREAM_CARD } from './card.ts';

const CHECKED_FRAMES = 64;
const [edgeUrl = '', secret = ''] = process.argv.slice(2);
const stats = { received: 0, checked: 0, pictures: 0, bad: [] as string[] };

/** Plain sockets: Node's HTTP server alone would take as much of the machine as the door. */
const server = createServer({ noDelay: true }, (socket) => {
  const chunks: Buffer[] = [];
  let have = 0;
  let need = -1;
  let head = '';
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    have += chunk.length;
    // One request after another on a connection, never two at once: that is how the door uses it.
    if (need < 0) {
      const first = chunks.length === 1 ? chunk : Buffer.concat(chunks);
      const end = first.indexOf('\r\n\r\n');
      if (end < 0) return;
      head = first.toString('latin1', 0, end);
      need = end + 4 + Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    }
    if (have < need) return;
    const request = chunks.splice(0);
    const bodyAt = head.length + 4;
    [have, need] = [0, -1];
    serve(head, request, bodyAt, socket).catch((error: unknown) => {
      stats.bad.push(String(error));
      socket.destroy();
    });
  });
});

async function serve(head: string, chunks: readonly Buffer[], bodyAt: number, socket: Socket): Promise<void> {
  const [method = '', path = ''] = head.split(' ', 2);
  if (path !== '/v1/generate') return void socket.write('HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n');
  stats.received++;
  if (stats.checked < CHECKED_FRAMES) await check(method, path, head, Buffer.concat(chunks).subarray(bodyAt));
  // The frame's header is in the first pieces, which are larger than it.
  const { tokens, everyMs } = askedFor(Buffer.concat(chunks.slice(0, 2)).subarray(bodyAt));
  const started = { type: 'started', promptTokens: 5, imageTokens: [64, 64] };
  const usage = { promptTokens: 5, completionTokens: tokens, imageTokens: 128, cachedTokens: 0 };
  const finished = { type: 'finished', index: 0, finishReason: 'length', usage };
  const delta = (text: string) => encodeSseJson({ type: 'delta', index: 0, text });
  const answer = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n';
  if (tokens <= 1) {
    const body = encodeSseJson(started) + delta('a') + encodeSseJson(finished);
    return void socket.write(`${answer}content-length: ${body.length}\r\n\r\n${body}`);
  }
  const piece = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;
  socket.write(`${answer}transfer-encoding: chunked\r\n\r\n${piece(encodeSseJson(started))}`);
  let sent = 0;
  const startMs = performance.now();
  const next = (): void => {
    if (socket.destroyed) return;
    socket.write(piece(delta(`${process.hrtime.bigint()} `)));
    if (++sent >= tokens) return void socket.write(`${piece(encodeSseJson(finished))}0\r\n\r\n`);
    setTimeout(next, Math.max(0, startMs + (sent + 1) * everyMs - performance.now()));
  };
  setTimeout(next, everyMs);
}

/** Without parsing the whole header: it is on everybody's way. A `seed` is the time between tokens, ms. */
function askedFor(body: Buffer): { tokens: number; everyMs: number } {
  const head = body.subarray(4, 4 + body.readUInt32LE(0)).toString('latin1');
  const number = (name: string, byDefault: number): number =>
    Number(new RegExp(`"${name}":(\\d+)`).exec(head)?.[1] ?? byDefault);
  return { tokens: number('maxTokens', 1), everyMs: number('seed', TOKEN_MS) };
}

async function check(method: string, target: string, head: string, body: Buffer): Promise<void> {
  stats.checked++;
  const verdict = await verifyHeaders({
    secret,
    method,
    target,
    header: (name) => new RegExp(`\r\n${name}: *([^\r]*)`, 'i').exec(head)?.[1],
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
