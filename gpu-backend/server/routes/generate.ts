import { Hono } from 'hono';
import type * as z from 'zod/mini';
import {
  BackendScoreRequest,
  CountRequest,
  type GenerateEvent,
  GenerateRequest,
} from '../../../shared/contract/backend.ts';
import { ApiError, violationsOf } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { decodePartialFrame, FrameError } from '../../../shared/wire/frame.ts';
import { encodeSseJson, SSE_PING } from '../../../shared/wire/sse.ts';
import type { AppContext } from '../app.ts';
import type { BlobCache } from '../blob-cache.ts';
import { errorBody } from '../errors.ts';
import { observeGeneration } from '../observe-generation.ts';
import type { SignedEnv } from '../require-signature.ts';

const PING_EVERY_MS = 15_000;

/** `POST /v1/generate` (frame in, server-sent events out), `POST /v1/score` and `POST /v1/count`. */
export function generateRoutes(context: AppContext): Hono<SignedEnv> {
  const { service, metrics, log, blobs: cache } = context;
  const app = new Hono<SignedEnv>();
  const checkRoom = () => {
    if (context.isDraining())
      throw new ApiError('overloaded', 'This backend is shutting down; try another or again in a second.');
    if (service.inFlight >= context.maxInFlight)
      throw new ApiError(
        'overloaded',
        `This backend has ${service.inFlight} requests in flight, its limit is ${context.maxInFlight}; try again in a second.`,
      );
  };

  app.post('/v1/count', async (c) => {
    const { request, blobs } = parseFrame(c.get('body'), CountRequest, cache);
    return c.json(await service.count(request, blobs));
  });

  app.post('/v1/score', async (c) => {
    checkRoom();
    const { request, blobs } = parseFrame(c.get('body'), BackendScoreRequest, cache);
    const scored = await service.score(request, blobs, c.req.raw.signal);
    metrics.promptTokens.inc({ model_name: request.adapter?.base ?? request.model }, scored.usage.promptTokens);
    return c.json(scored);
  });

  app.post('/v1/generate', async (c) => {
    checkRoom();
    const { request, blobs } = parseFrame(c.get('body'), GenerateRequest, cache);
    const abort = new AbortController();
    c.req.raw.signal.addEventListener('abort', () => abort.abort(), { once: true });
    const events = observeGeneration(service.generate(request, blobs, abort.signal), request, metrics);
    // What is refused before it starts is an HTTP error; only a started answer becomes a stream.
    const first = await events.next();
    if (first.done === true) throw new Error('internal: a generation ended without an event');
    const stream = eventStream(first.value, events, abort, (error) =>
      log.error({ err: error, requestId: request.requestId }, 'generation failed'),
    );
    return c.body(stream, 200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  });
  return app;
}

function parseFrame<T extends typeof GenerateRequest | typeof BackendScoreRequest | typeof CountRequest>(
  body: Uint8Array,
  schema: T,
  cache: BlobCache,
): { request: z.infer<T>; blobs: Uint8Array[] } {
  try {
    const { header, blobs } = decodePartialFrame(body, {
      maxHeaderBytes: LIMITS.backends.maxFrameHeaderBytes,
      maxBlobs: LIMITS.backends.maxFrameBlobs,
      maxBlobBytes: LIMITS.images.maxBytes,
    });
    const parsed = schema.safeParse(header);
    if (!parsed.success) {
      const details = violationsOf(parsed.error.issues, header);
      const [first] = details;
      throw new ApiError(
        first?.code ?? 'invalid_request',
        first?.message ?? 'The header is not a request of this route.',
        {
          param: first?.param ?? null,
          details,
        },
      );
    }
    const request = parsed.data as z.infer<T>;
    return { request, blobs: cache.complete(request.tenant, header.blobs, blobs) };
  } catch (error) {
    if (error instanceof FrameError) throw new ApiError('invalid_request', error.message);
    throw error;
  }
}

/** One block per event, pings while nothing happens. A reader that goes away aborts the generation. */
function eventStream(
  first: GenerateEvent,
  rest: AsyncGenerator<GenerateEvent, void, undefined>,
  abort: AbortController,
  onError: (error: unknown) => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let ping: NodeJS.Timeout | undefined;
  let hasReader = true;
  return new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(encoder.encode(encodeSseJson(first)));
      ping = setInterval(() => controller.enqueue(encoder.encode(SSE_PING)), PING_EVERY_MS);
    },
    async pull(controller) {
      try {
        const next = await rest.next();
        if (!hasReader) return;
        if (next.done !== true) {
          controller.enqueue(encoder.encode(encodeSseJson(next.value)));
          return;
        }
      } catch (error) {
        if (!(error instanceof ApiError)) onError(error);
        if (!hasReader) return;
        const event: GenerateEvent = { type: 'error', ...errorBody(error) };
        controller.enqueue(encoder.encode(encodeSseJson(event)));
      }
      clearInterval(ping);
      controller.close();
    },
    async cancel() {
      hasReader = false;
      clearInterval(ping);
      abort.abort();
      await rest.return();
    },
  });
}
