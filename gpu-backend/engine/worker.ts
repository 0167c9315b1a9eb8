/**
 * The engine thread. ONNX Runtime blocks whoever calls it, so everything that runs a model lives here and the server's event
 * loop only ever waits for messages. Several models take turns, one step each.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { Engine } from './engine.ts';
import { FeatureCache } from './feature-cache.ts';
import { HeldFeatures } from './held-features.ts';
import { type Loaded, ModelLoader } from './load-model.ts';
import type { OnnxRunner } from './onnx-runner.ts';
import type { CallName, Calls, EngineStats, FromWorker, LoadSpec, ToWorker } from './protocol.ts';

/** A model under the name that requests know it by. Adapters share the engine of their base. */
interface Served {
  readonly spec: LoadSpec;
  readonly loaded: Loaded;
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
const engines = new Map<OnnxRunner, Engine>();
let looping = false;

function tell(message: FromWorker): void {
  port.postMessage(message);
}

const handlers: { readonly [K in CallName]: (argument: Calls[K]['argument']) => Promise<Calls[K]['result']> } = {
  async load(spec) {
    if (served.has(spec.model)) return null;
    const loaded = await loader.load(spec.dir, spec.overlayDir, spec.compile, spec.adapters);
    let engine = engines.get(loaded.runner);
    if (engine === undefined) {
      engine = new Engine({
        runner: loaded.runner,
        capacity: spec.capacity,
        prefixCacheBytes: spec.prefixCacheBytes,
        cache,
        nowMs: Date.now,
        emit: (events) => {
          for (const event of events) if (event.type === 'end' || event.type === 'failed') held.release(event.id);
          tell({ type: 'events', events });
        },
      });
      engines.set(loaded.runner, engine);
    }
    served.set(spec.model, { spec, loaded, engine });
    return null;
  },
  async unload({ model }) {
    const one = served.get(model);
    if (one === undefined) return null;
    const { loaded, engine } = one;
    if (loaded.adapter === null ? engine.busy : engine.uses(loaded.adapter))
      throw new Error(`${model} is still answering requests`);
    served.delete(model);
    const others = [...served.values()].filter((other) => other.loaded.runner === loaded.runner);
    if (loaded.adapter !== null) {
      // Two names may be given to one adapter.
      if (!others.some((other) => other.loaded.adapter === loaded.adapter)) await loader.unload(loaded);
    } else if (others.length === 0) {
      engines.delete(loaded.runner);
      await loader.unload(loaded);
    }
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
      models: [...engines.values()].flatMap((engine) => {
        // Adapters count with their base, which need not be served itself.
        const names = [...served.values()].filter((one) => one.engine === engine);
        const named = names.find(({ loaded }) => loaded.adapter === null) ?? names[0];
        if (named === undefined) return [];
        return [
          {
            model: named.spec.model,
            kvBudgetTokens: named.spec.capacity.kvTokens,
            counters: { ...engine.counters },
            prefixes: { ...engine.prefixCounters },
            ...engine.load,
          },
        ];
      }),
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

/** Nobody has asked for so long: memory of rows is given back. */
const IDLE_MS = 10_000;
let idle: NodeJS.Timeout | undefined;

/** Runs while any model has work. Between steps the thread takes its messages, so a cancel waits for one step at most. */
async function loop(): Promise<void> {
  if (looping) return;
  looping = true;
  clearTimeout(idle);
  try {
    for (;;) {
      const busy = [...engines.values()].filter((engine) => engine.busy);
      if (busy.length === 0) return;
      for (const engine of busy) {
        await engine.step();
        await new Promise(setImmediate);
      }
    }
  } finally {
    looping = false;
    idle = setTimeout(() => {
      for (const engine of engines.values()) engine.trim();
    }, IDLE_MS);
    idle.unref();
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
        one.engine.submit({ ...message.request, adapter: one.loaded.adapter });
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
