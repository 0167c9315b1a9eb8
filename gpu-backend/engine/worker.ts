/**
 * The engine thread. ONNX Runtime blocks whoever calls it, so everything that runs a model lives here and the server's event
 * loop only ever waits for messages. Several models take turns, one step each.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Engine } from './engine.ts';
import { FeatureCache } from './feature-cache.ts';
import { HeldFeatures } from './held-features.ts';
import { ModelLoader } from './load-model.ts';
import type { CallName, Calls, EngineStats, FromWorker, LoadSpec, ToWorker } from './protocol.ts';
import type { ModelRunner } from './runner.ts';

interface Served {
  readonly spec: LoadSpec;
  readonly runner: ModelRunner;
  readonly engine: Engine;
}

if (parentPort === null) throw new Error('engine/worker.ts is started by engine/thread.ts, not by hand');
const port = parentPort;
const { featureCacheBytes } = workerData as { featureCacheBytes: number };

const cache = new FeatureCache(featureCacheBytes, (key, features) => {
  const request = held.takeWanted(key);
  if (request === null) return;
  const copy = features.slice();
  port.postMessage({ type: 'features', request, key, features: copy } satisfies FromWorker, [copy.buffer]);
});
const held = new HeldFeatures(cache);
const loader = new ModelLoader();
const served = new Map<string, Served>();
let looping = false;

function tell(message: FromWorker): void {
  port.postMessage(message);
}

const handlers: { readonly [K in CallName]: (argument: Calls[K]['argument']) => Promise<Calls[K]['result']> } = {
  async load(spec) {
    if (served.has(spec.model)) return null;
    const runner = await loader.load(spec.dir, spec.overlayDir, spec.threads, spec.adapters);
    const engine = new Engine({
      runner,
      capacity: spec.capacity,
      cache,
      nowMs: Date.now,
      emit: (events) => {
        for (const event of events) if (event.type !== 'token') held.release(event.id);
        tell({ type: 'events', events });
      },
    });
    served.set(spec.model, { spec, runner, engine });
    return null;
  },
  async unload({ model }) {
    const one = served.get(model);
    if (one === undefined) return null;
    if (one.engine.busy) throw new Error(`${model} is still answering requests`);
    served.delete(model);
    await one.runner.dispose();
    return null;
  },
  async hold({ request, keys }) {
    return held.hold(request, keys);
  },
  async restore({ request, found, want }) {
    held.restore(request, found, want);
    return null;
  },
  async stats(): Promise<EngineStats> {
    return {
      models: [...served.values()].map(({ spec, engine }) => ({
        model: spec.model,
        kvBudgetTokens: spec.capacity.kvTokens,
        counters: engine.counters,
        ...engine.load,
      })),
      cache: {
        bytes: cache.bytes,
        entries: cache.size,
        queries: cache.queries,
        hits: cache.hits,
        evictions: cache.evictions,
      },
    };
  },
};

/** Runs while any model has work. Between steps the thread takes its messages, so a cancel waits for one step at most. */
async function loop(): Promise<void> {
  if (looping) return;
  looping = true;
  try {
    for (;;) {
      const busy = [...served.values()].filter(({ engine }) => engine.busy);
      if (busy.length === 0) return;
      for (const { engine } of busy) {
        await engine.step();
        await new Promise(setImmediate);
      }
    }
  } finally {
    looping = false;
  }
}

async function answer(message: Extract<ToWorker, { type: 'call' }>): Promise<void> {
  const { call, name, argument } = message;
  try {
    const handler = handlers[name] as (argument: unknown) => Promise<unknown>;
    tell({ type: 'answer', call, result: await handler(argument) });
  } catch (error) {
    tell({ type: 'refusal', call, message: error instanceof Error ? error.message : String(error) });
  }
}

port.on('message', (message: ToWorker) => {
  switch (message.type) {
    case 'call':
      void answer(message);
      return;
    case 'submit': {
      const { id } = message.request;
      try {
        const one = served.get(message.model);
        if (one === undefined) throw new Error(`the model ${message.model} is not loaded`);
        one.engine.submit(message.request);
      } catch (error) {
        held.release(id);
        const text = error instanceof Error ? error.message : String(error);
        tell({ type: 'events', events: [{ type: 'failed', id, message: text }] });
        return;
      }
      void loop();
      return;
    }
    case 'cancel':
      served.get(message.model)?.engine.cancel(message.id);
      return;
    case 'release':
      held.release(message.request);
      return;
    default:
      message satisfies never;
  }
});
