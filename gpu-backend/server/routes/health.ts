import { Hono } from 'hono';
import type { AppContext } from '../app.ts';
import type { SignedEnv } from '../require-signature.ts';

/** Live = the process answers. Ready = it takes requests: at least one model is loaded and it does not drain. */
export function healthRoutes({ service, isDraining }: Pick<AppContext, 'service' | 'isDraining'>): Hono<SignedEnv> {
  const app = new Hono<SignedEnv>();
  const isReady = () => service.cards().length > 0 && !isDraining();
  app.get('/health/live', (c) => c.json({ status: 'live' }));
  app.get('/health/ready', (c) =>
    isReady() ? c.json({ status: 'ready' }) : c.json({ status: isDraining() ? 'draining' : 'starting' }, 503),
  );
  app.get('/health', (c) =>
    c.json({
      status: isReady() ? 'ready' : isDraining() ? 'draining' : 'starting',
      models: service.cards().map(({ id }) => id),
      inFlight: service.inFlight,
      uptimeS: Math.round(process.uptime()),
      rssBytes: process.memoryUsage.rss(),
    }),
  );
  return app;
}
