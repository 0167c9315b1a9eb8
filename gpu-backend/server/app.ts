import { Hono } from 'hono';
import type { Logger } from 'pino';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelService } from '../engine/service.ts';
import { type BlobCache, BlobsMissingError } from './blob-cache.ts';
import type { EdgeClient } from './edge-client.ts';
import { errorBody } from './errors.ts';
import type { Metrics } from './metrics.ts';
import { requireSignature, type SignedEnv } from './require-signature.ts';
import { compareRoutes } from './routes/compare.ts';
import { generateRoutes } from './routes/generate.ts';
import { healthRoutes } from './routes/health.ts';
import { metricsRoute } from './routes/metrics.ts';

/** What the routes work with. */
export interface AppContext {
  readonly service: ModelService;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Null: it runs alone. */
  readonly edge: EdgeClient | null;
  /** Picture files that need not travel again. */
  readonly blobs: BlobCache;
  readonly secret: string;
  /** Id of this backend where an edge knows it: calls for others are refused. */
  readonly audience?: string | undefined;
  /** The edge's clock, Unix ms, when it first heard of this run; null = not yet. Left out: nobody has to hear of it. */
  readonly knownSinceMs?: (() => number | null) | undefined;
  /** Requests taken at once; further ones are told to come back. */
  readonly maxInFlight: number;
  readonly isDraining: () => boolean;
  /** "Look for jobs now." */
  readonly onWake: () => void;
}

/** Largest signed body: all images of a request, and the header. */
const MAX_BODY_BYTES = LIMITS.images.maxTotalBytes + LIMITS.backends.maxFrameHeaderBytes + 4;

/**
 * The backend's routes. Health is open, `/metrics` is open on loopback, everything else needs the edge's signature: whatever
 * is mounted below the middleware is closed without anybody having to remember it.
 */
export function createApp(context: AppContext): Hono<SignedEnv> {
  const app = new Hono<SignedEnv>();
  const signed = requireSignature({
    secret: context.secret,
    audience: context.audience,
    knownSinceMs: context.knownSinceMs,
    toleranceS: LIMITS.backends.signatureToleranceS,
    maxBytes: MAX_BODY_BYTES,
  });

  app.route('/', healthRoutes(context));
  app.get('/metrics', metricsRoute(context.metrics, signed));
  app.use('*', signed);
  app.get('/v1/models', (c) => c.json({ data: context.service.cards() }));
  app.post('/v1/wake', (c) => {
    context.onWake();
    return c.body(null, 202);
  });
  app.route('/', generateRoutes(context));
  app.route('/', compareRoutes(context));

  app.notFound((c) => {
    const error = new ApiError('not_found', `${c.req.method} ${c.req.path}: expected a route of this backend.`);
    return c.json(errorBody(error), 404);
  });
  app.onError((error, c) => {
    if (!(error instanceof ApiError)) context.log.error({ err: error, path: c.req.path }, 'request failed');
    const body = errorBody(error);
    // No failure: the edge sends the bytes.
    if (error instanceof BlobsMissingError) return c.json({ ...body, missing: error.missing }, 409);
    context.metrics.requestFailure.inc({ code: body.error.code });
    if (body.error.status === 503) c.header('retry-after', '1');
    return c.json(body, body.error.status as 500);
  });
  return app;
}
