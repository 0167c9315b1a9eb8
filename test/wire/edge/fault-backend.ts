/**
 * A backend for fault injection only: it speaks the inner protocol, answers with fixed words, and fails on demand in ways a real one cannot be made to.
 * Everything that can be tested against the real backend is tested there.
 */
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlobCache, BlobsMissingError } from '../../../gpu-backend/server/blob-cache.ts';
import type { GenerateRequest } from '../../../shared/contract/backend.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';
import { decodePartialFrame } from '../../../shared/wire/frame.ts';
import { verifyHeaders } from '../../../shared/wire/signature.ts';
import { encodeSseJson } from '../../../shared/wire/sse.ts';
import { type Installation, SECRET } from './installation.ts';

/** What it does with a generation. */
export type Behaviour =
  | 'answer'
  | 'refuse_busy'
  | 'refuse_context'
  | 'error_first'
  | 'error_later'
  | 'die_before_start'
  | 'die_in_stream'
  | 'end_without_finish'
  | 'endless'
  /** Takes the request and never says anything. */
  | 'silent';

export const FAULT_CARD: ModelCard = {
  id: 'faulty',
  family: 'fault-injection',
  created: 1_700_000_000,
  contextTokens: 1_000,
  tokensPerImage: 100,
  imageWidth: 32,
  imageHeight: 32,
  maxImages: 20,
  maxNewTokens: 64,
  capabilities: { chat: true, fineTune: ['lora'] },
  digest: 'sha256:00ff',
};

export class FaultBackend {
  behaviour: Behaviour = 'answer';
  /** Between the first word and what comes then, ms. A reader of a stream then has the word before the connection breaks. */
  pauseMs = 50;
  /** What it holds of pictures; replace it to have them dropped. */
  pictures = new BlobCache(64 << 20);
  /** Bytes of the bodies of generations. */
  readonly bodyBytes: number[] = [];
  readonly seen: { request: GenerateRequest; blobs: Uint8Array[]; headers: IncomingHttpHeaders }[] = [];
  /** Generations whose connection the edge closed before the end. */
  aborted = 0;
  wakes = 0;
  readonly #server: Server;
  readonly #beat: NodeJS.Timeout;

  private constructor(
    readonly id: string,
    server: Server,
    readonly url: string,
    readonly installation: Installation,
    readonly state: { inFlight: number },
  ) {
    this.#server = server;
    this.#beat = setInterval(() => void this.report('heartbeat').catch(() => {}), LIMITS.backends.heartbeatEveryMs);
  }

  static async join(installation: Installation, id = 'fault-backend', inFlight = 0): Promise<FaultBackend> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const backend = new FaultBackend(id, server, `http://127.0.0.1:${port}`, installation, { inFlight });
    server.on('request', (request, response) => void backend.#serve(request, response));
    await backend.report('register');
    return backend;
  }

  async report(kind: 'register' | 'heartbeat', state: 'ready' | 'draining' = 'ready'): Promise<void> {
    const { status } = await this.installation.signed('POST', `/internal/backends/${kind}`, {
      id: this.id,
      url: this.url,
      models: [FAULT_CARD],
      capacity: 4,
      inFlight: this.state.inFlight,
      state,
    });
    if (status !== 200) throw new Error(`${kind} answered ${status}`);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (request.url === '/v1/generate') this.bodyBytes.push(Buffer.concat(chunks).byteLength);
    const verdict = await verifyHeaders({
      secret: SECRET,
      method: request.method ?? '',
      target: request.url ?? '',
      header: (name) => request.headers[name] as string | undefined,
      nowS: Date.now() / 1000,
      toleranceS: 300,
    });
    if (!verdict.ok) return void response.writeHead(401).end();
    if (request.url === '/v1/wake') {
      this.wakes++;
      return void response.writeHead(202).end();
    }
    const { header, blobs } = decodePartialFrame(Buffer.concat(chunks), {
      maxHeaderBytes: 1 << 22,
      maxBlobs: 64,
      maxBlobBytes: 1 << 24,
    });
    const generation = header as unknown as GenerateRequest;
    try {
      if (request.url === '/v1/count') return void count(response, header as unknown as GenerateRequest);
      const complete = this.pictures.complete(generation.tenant, header.blobs, blobs);
      this.seen.push({ request: generation, blobs: complete, headers: request.headers });
    } catch (error) {
      if (!(error instanceof BlobsMissingError)) throw error;
      const body = {
        error: { status: 409, code: error.code, type: 'x', message: 'x', param: null },
        missing: error.missing,
      };
      return void response.writeHead(409, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    }
    await this.#generate(response);
  }

  async #generate(response: ServerResponse): Promise<void> {
    const { behaviour } = this;
    const fail = (status: number, code: string, message: string, param: string | null = null) =>
      response
        .writeHead(status, { 'content-type': 'application/json' })
        .end(JSON.stringify({ error: { status, code, type: 'x', message, param } }));
    if (behaviour === 'silent') {
      response.once('close', () => this.aborted++);
      return;
    }
    if (behaviour === 'refuse_busy') return void fail(503, 'overloaded', 'busy');
    if (behaviour === 'refuse_context')
      return void fail(400, 'context_length_exceeded', 'messages[0].parts[1]: too long', 'messages[0].parts[1]');
    if (behaviour === 'die_before_start') return void response.destroy();
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const send = (event: object) => response.write(encodeSseJson(event));
    const error = {
      type: 'error',
      error: {
        status: 400,
        code: 'image_parse_error',
        type: 'x',
        message: 'messages[0].parts[1]: broken',
        param: 'messages[0].parts[1]',
      },
    };
    if (behaviour === 'error_first') return void response.end(encodeSseJson(error));
    send({ type: 'started', promptTokens: 5, imageTokens: [] });
    response.on('close', () => {
      if (!response.writableEnded) this.aborted++;
    });
    for (let i = 0; behaviour === 'endless' && !response.destroyed; i++) {
      send({ type: 'delta', index: 0, text: `${i} ` });
      await sleep(10);
    }
    send({ type: 'delta', index: 0, text: 'Hel' });
    await sleep(this.pauseMs);
    if (behaviour === 'die_in_stream') return void response.destroy();
    if (behaviour === 'error_later') return void response.end(encodeSseJson(error));
    send({ type: 'delta', index: 0, text: 'lo' });
    if (behaviour !== 'end_without_finish') {
      send({
        type: 'finished',
        index: 0,
        finishReason: 'stop',
        usage: { promptTokens: 5, completionTokens: 2, imageTokens: 0, cachedTokens: 0 },
      });
    }
    response.end();
  }

  async close(): Promise<void> {
    clearInterval(this.#beat);
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Every text is five tokens together, every picture what the card says. */
function count(response: ServerResponse, { messages }: GenerateRequest): void {
  const pictures = messages.flatMap(({ parts }) => parts.filter(({ type }) => type === 'image'));
  const imageTokens = pictures.map(() => FAULT_CARD.tokensPerImage);
  const promptTokens = 5 + imageTokens.length * FAULT_CARD.tokensPerImage;
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ promptTokens, imageTokens }));
}
