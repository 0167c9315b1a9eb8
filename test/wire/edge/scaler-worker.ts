/** A Worker that lets a test call a driver inside workerd, where it runs in production. */
import type { ScalingEnv } from '../../../edge/fleet/autoscale/config.ts';
import { openDriver } from '../../../edge/fleet/autoscale/open.ts';

type Env = ScalingEnv;
let driver: ReturnType<typeof openDriver> | null = null;

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    try {
      driver ??= openDriver(env);
      const opened = await driver;
      if (opened === null) return Response.json({ driver: null });
      if (new URL(request.url).pathname === '/observe') return Response.json(await opened.observe());
      const { count, remove, keep } = (await request.json()) as {
        count: number;
        remove: string[];
        keep: Parameters<NonNullable<Awaited<typeof driver>>['scaleTo']>[2];
      };
      await opened.scaleTo(count, remove, keep);
      return Response.json({ done: true });
    } catch (error) {
      const { name, message, isRetryable } = error as Error & { isRetryable?: boolean };
      return Response.json({ error: { name, message, isRetryable } }, { status: 500 });
    }
  },
};
