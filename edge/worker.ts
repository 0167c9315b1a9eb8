import { createApp } from './app.ts';
import { type Env, scheduler } from './env.ts';

export { BatchRunner } from './batches/runner.ts';
export { Fleet } from './fleet/registry.ts';
export { Scheduler } from './jobs/scheduler.ts';
export { Limiter } from './limits/object.ts';
export { Metrics } from './metrics/collector.ts';
export { Nonces } from './middleware/nonces.ts';
export { AuditChain } from './store/auditChain.ts';
export { WebhookSender } from './webhooks/sender.ts';

const app = createApp();

export default {
  fetch: (request: Request, env: Env, ctx: ExecutionContext) => app.fetch(request, env, ctx),
  /** A second way to wake up, beside the scheduler's own alarm. What is due stands in the database, so neither is needed and both may come. */
  scheduled: (_event: ScheduledController, env: Env, ctx: ExecutionContext) => ctx.waitUntil(scheduler(env).ensure()),
} satisfies ExportedHandler<Env>;
