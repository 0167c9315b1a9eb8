import type { Context } from 'hono';
import type { Caller } from '../shared/contract/keys.ts';
import type { BatchRunner } from './batches/runner.ts';
import type { ScalingEnv } from './fleet/autoscale/config.ts';
import type { Fleet } from './fleet/registry.ts';
import type { Scheduler } from './jobs/scheduler.ts';
import type { Admission } from './limits/admit.ts';
import type { Limiter } from './limits/object.ts';
import type { Metrics } from './metrics/collector.ts';
import type { RequestFacts } from './metrics/facts.ts';
import type { Nonces } from './middleware/nonces.ts';
import type { Trace } from './middleware/trace.ts';
import type { Actor } from './store/audit.ts';
import type { AuditChain } from './store/auditChain.ts';
import type { Metered } from './usage/record.ts';
import type { WebhookSender } from './webhooks/sender.ts';

/** Bindings of deploy/wrangler.jsonc. */
export type Env = ScalingEnv & {
  DB: D1Database;
  BLOBS: R2Bucket;
  SCHEDULER: DurableObjectNamespace<Scheduler>;
  FLEET: DurableObjectNamespace<Fleet>;
  NONCES: DurableObjectNamespace<Nonces>;
  AUDIT: DurableObjectNamespace<AuditChain>;
  METRICS: DurableObjectNamespace<Metrics>;
  LIMITER: DurableObjectNamespace<Limiter>;
  BATCHES: DurableObjectNamespace<BatchRunner>;
  WEBHOOKS: DurableObjectNamespace<WebhookSender>;
  ORGANIZATION: string;
  EGRESS_ALLOW: string;
  BACKEND_SECRET: string;
  /** Makes pictures smaller; a binding of the platform, with a local implementation. */
  IMAGES?: ImagesBinding;
  /** `on`: pictures far larger than the model sees are made smaller here; see `images/shrink.ts`. */
  EDGE_IMAGES?: string;
  /** Seconds a batch has; empty: 24 hours, which is the most. */
  BATCH_WINDOW_S?: string;
  /** SHA-256 of the operator's own key, hex: the one key that needs no checksum. Empty: none. */
  BOOTSTRAP_KEY_HASH?: string;
  /** Header in which the platform names the client, `cf-connecting-ip` on Cloudflare; empty where clients could write it themselves. */
  CLIENT_ADDRESS_HEADER?: string;
  /** Limits of keys that have none of their own, as JSON; see `limits/settings.ts`. */
  KEY_LIMITS?: string;
  /** Origins whose pages may call, comma-separated; see `middleware/cors.ts`. */
  CORS_ORIGINS?: string;
  /** Interactive requests ask a second backend where the first says nothing for so many ms; empty: never. */
  HEDGE_MS?: string;
  /** Bearer token of scrapers of `/metrics`; empty: only keys that may. */
  METRICS_TOKEN?: string;
  /** debug, info, warn, error or silent; empty: info. */
  LOG_LEVEL?: string;
  /** Share of the requests that went well whose line is written, 0 … 1; empty: all. */
  LOG_SAMPLE?: string;
  /**
   * Reaches public addresses only, checked by the runtime when it connects. Present in local starts; on Cloudflare's network a Worker has no private
   * routes and the global `fetch` serves.
   */
  PUBLIC_NETWORK?: Fetcher;
};

/** What middleware leaves for handlers. */
export type Variables = {
  /** What is known of this request, for its log line and the metrics. */
  facts: RequestFacts;
  requestId: string;
  trace: Trace;
  /** What the key's limits said; null while they are asked, absent where they were not. */
  admission?: Admission | null;
  /** Length of the body, as far as it was told or read. */
  bodyBytes: () => number;
  /** What a request for a model is billed by, besides its facts. */
  metered?: Metered;
  /** Who asks, with what the key may do and use. */
  caller: Caller;
  /** Id of the API key, for logs. */
  keyId: string;
  /** Opaque id of who asks: what backends keep caches apart by. */
  tenant: string;
};

export type AppEnv = { Bindings: Env; Variables: Variables };

/** Who makes the change that a request asks for, as the audit log names it. */
export function actorOf(c: Context<AppEnv>): Actor {
  return { tenant: c.get('tenant'), keyId: c.get('keyId'), requestId: c.get('requestId') };
}

/** There is one scheduler and one fleet an installation; both are found by name. */
export function scheduler(env: Env): DurableObjectStub<Scheduler> {
  return env.SCHEDULER.get(env.SCHEDULER.idFromName('scheduler'));
}

/** Nonces of backends' calls, for all isolates. */
export function nonces(env: Env): DurableObjectStub<Nonces> {
  return env.NONCES.get(env.NONCES.idFromName('nonces'));
}

export function auditChain(env: Env): DurableObjectStub<AuditChain> {
  return env.AUDIT.get(env.AUDIT.idFromName('audit'));
}

/** Each batch has an object of its own. */
export function batchRunner(env: Env, id: string): DurableObjectStub<BatchRunner> {
  return env.BATCHES.get(env.BATCHES.idFromName(id));
}

/** Each webhook endpoint has an object of its own. */
export function webhookSender(env: Env, endpointId: string): DurableObjectStub<WebhookSender> {
  return env.WEBHOOKS.get(env.WEBHOOKS.idFromName(endpointId));
}

export function fleet(env: Env): DurableObjectStub<Fleet> {
  return env.FLEET.get(env.FLEET.idFromName('fleet'));
}
