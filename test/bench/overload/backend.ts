/**
 * A backend of known capacity without a model: so many places, each answer takes so long, one event at its start and a token each 20 ms. More than twice
 * its places it refuses, as a real one does. Counts calls and how soon after a client's hang-up its work was cut.
 *
 *     fork(backend.ts, [edgeUrl, secret, places, serviceMs]) → message {port}; messages {serviceMs?, failing?} set it; 'stats' → Stats
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { signatureHeaders } from '../../../shared/wire/signature.ts';
import { encodeSseJson } from '../../../shared/wire/sse.ts';
import { OVERLOAD_CARD } from './card.ts';

export type Stats = {
  calls: number;
  done: number;
  refused: number;
  /** By the text of the request: when its connection was closed before the end, ms since the epoch of all processes' clock. */
  cutAt: Record<string, number>;
  mostInFlight: number;
  inFlight: number;
};

const TOKEN_MS = 20;
const [edgeUrl = '', secret = '', places = '16', ms = '100'] = process.argv.slice(2);
let serviceMs = Number(ms);
let failing = false;
const stats: Stats = { calls: 0, done: 0, refused: 0, cutAt: {}, mostInFlight: 0, inFlight: 0 };

const server = createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
  serve(request, response).catch(() => response.destroy());
});

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  if (request.url !== '/v1/generate') return void response.writeHead(202).end();
  stats.calls++;
  if (failing) return void response.destroy();
  if (stats.inFlight >= 2 * Number(places)) {
    stats.refused++;
    const error = { message: 'full', type: 'server_error', param: null, code: 'overloaded', status: 503 };
    return void response.writeHead(503, { 'content-type': 'application/json' }).end(JSON.stringify({ error }));
  }
  stats.inFlight++;
  stats.mostInFlight = Math.max(stats.mostInFlight, stats.inFlight);
  const body = Buffer.concat(chunks);
  const header = JSON.parse(body.toString('utf8', 4, 4 + body.readUInt32LE(0))) as {
    messages: { parts: { text: string }[] }[];
    sampling: { maxTokens: number };
  };
  const mark = header.messages[0]?.parts[0]?.text ?? '';
  const endless = header.sampling.maxTokens > 1_000;
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(encodeSseJson({ type: 'started', promptTokens: 5, imageTokens: [] }));
  const startMs = performance.now();
  let isOver = false;
  const tokens = setInterval(
    () => {
      response.write(encodeSseJson({ type: 'delta', index: 0, text: 'a ' }));
      if (endless || performance.now() - startMs < serviceMs) return;
      end();
      stats.done++;
      const usage = { promptTokens: 5, completionTokens: 5, imageTokens: 0, cachedTokens: 0 };
      response.end(encodeSseJson({ type: 'finished', index: 0, finishReason: 'stop', usage }));
    },
    Math.min(TOKEN_MS, serviceMs),
  );
  const end = (): void => {
    if (isOver) return;
    isOver = true;
    clearInterval(tokens);
    stats.inFlight--;
  };
  response.on('close', () => {
    if (!isOver) stats.cutAt[mark] = performance.timeOrigin + performance.now();
    end();
  });
}

async function report(): Promise<void> {
  const path = '/internal/backends/register';
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const body = JSON.stringify({
    id: `overload-${process.pid}`,
    url,
    models: [OVERLOAD_CARD],
    capacity: Number(places),
    inFlight: stats.inFlight,
    state: 'ready',
  });
  const signed = await signatureHeaders({ secret, method: 'POST', target: path, body, nowS: Date.now() / 1000 });
  const headers = { ...signed, 'content-type': 'application/json' };
  const answer = await fetch(edgeUrl + path, { method: 'POST', headers, body });
  if (!answer.ok) throw new Error(`the edge refused the backend: ${answer.status} ${await answer.text()}`);
}

server.listen(0, '127.0.0.1', async () => {
  await report();
  setInterval(() => void report().catch((error: unknown) => console.error(String(error))), 1_000);
  process.send?.({ port: (server.address() as AddressInfo).port });
});
process.on('message', (message: 'stats' | { serviceMs?: number; failing?: boolean }) => {
  if (message === 'stats') return void process.send?.(stats);
  serviceMs = message.serviceMs ?? serviceMs;
  failing = message.failing ?? failing;
});
process.on('disconnect', () => process.exit());
