/** A driver in workerd, for tests that emulate the service behind it. */
import { join } from 'node:path';
import { Miniflare } from 'miniflare';
import { bundleWorker } from '../../../deploy/bundle.ts';

export type DriverHandle = {
  observe(): Promise<{ desired: number; running: number; starting: number }>;
  scaleTo(count: number, remove?: readonly string[], keep?: readonly { id: string; inFlight: number }[]): Promise<void>;
  close(): Promise<void>;
};

/** What the driver threw. */
export class DriverFault extends Error {
  constructor(
    message: string,
    readonly isRetryable: boolean | undefined,
  ) {
    super(message);
  }
}

export async function driverInWorkerd(bindings: Record<string, string>): Promise<DriverHandle> {
  const contents = await bundleWorker({ entry: join(import.meta.dirname, 'scaler-worker.ts') });
  const miniflare = new Miniflare({
    cf: false,
    modules: [{ type: 'ESModule', path: 'worker.js', contents }],
    compatibilityDate: '2026-04-20',
    bindings,
  });
  await miniflare.ready;
  const call = async (path: string, body?: object): Promise<unknown> => {
    const response = await miniflare.dispatchFetch(`http://driver${path}`, {
      method: 'POST',
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer = (await response.json()) as { error?: { message: string; isRetryable?: boolean } };
    if (answer.error !== undefined) throw new DriverFault(answer.error.message, answer.error.isRetryable);
    return answer;
  };
  return {
    observe: async () => (await call('/observe')) as Awaited<ReturnType<DriverHandle['observe']>>,
    async scaleTo(count, remove = [], keep = []) {
      const snapshots = keep.map((one) => ({
        state: 'ready',
        costTokens: 0,
        capacity: 32,
        hasJob: false,
        startedAtMs: null,
        coldStartMs: null,
        ...one,
      }));
      await call('/scale', { count, remove, keep: snapshots });
    },
    close: () => miniflare.dispose(),
  };
}
