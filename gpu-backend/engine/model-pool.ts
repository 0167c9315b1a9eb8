import { setTimeout as sleep } from 'node:timers/promises';
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { AdapterMode } from './adapter-mode.ts';
import type { CompileOptions } from './load-model.ts';
import { loadFront, type ModelFront } from './model-front.ts';
import type { Capacity } from './scheduler/types.ts';
import { EngineThread } from './thread.ts';

/** A model that the engine thread has loaded, with what the server's thread needs of it. */
export interface LoadedModel {
  /** Id in the engine thread. */
  readonly id: string;
  readonly front: ModelFront;
  /** To be called once when the request is over: until then the model stays loaded. */
  readonly release: () => void;
}

/** Files of a fine-tune on this machine. */
export interface Overlay {
  readonly base: string;
  readonly dir: string;
  /** Digest over names and contents of the files: equal keys mean equal models. */
  readonly key: string;
}

/** A model that is loaded at start. */
export interface ServedModel {
  readonly id: string;
  readonly dir: string;
  /** PEFT adapter folder to lay over the checkpoint in `dir`. Several models may share a checkpoint; it is read once. */
  readonly adapterDir?: string;
}

export interface ModelPoolOptions {
  readonly models: readonly ServedModel[];
  readonly capacity: Capacity;
  /** Default: f32 weights, keys and values on one thread. */
  readonly compile?: CompileOptions;
  /** Keys and values kept of prompts and answers, for each model. Default 0. */
  readonly prefixCacheBytes?: number;
  /** Default `auto`. */
  readonly adapters?: AdapterMode;
  readonly featureCacheBytes: number;
  /** Fine-tuned models kept loaded beside the bases. */
  readonly maxOverlays: number;
  /** Brings a fine-tune's files here. @throws ApiError `model_not_found` */
  readonly fetchOverlay: (request: Pick<GenerateRequest, 'model' | 'adapter'>) => Promise<Overlay>;
  readonly onEngineDeath: (error: Error) => void;
}

interface Tuned {
  readonly ready: Promise<Pick<LoadedModel, 'id' | 'front'>>;
  usedAt: number;
  /** Requests between `resolve` and `release`. */
  users: number;
}

/** The models of this process: bases loaded at start, fine-tunes on demand and least recently used out first. */
export class ModelPool {
  readonly #o: ModelPoolOptions;
  readonly #fronts = new Map<string, ModelFront>();
  #thread: EngineThread;
  /** Resolves when the current engine thread has all bases. */
  #ready: Promise<void> = Promise.resolve();
  #tuned = new Map<string, Tuned>();
  #uses = 0;
  /** Deaths of the engine thread since it last loaded everything. */
  #deaths = 0;
  #closed = false;

  constructor(options: ModelPoolOptions) {
    this.#o = options;
    this.#thread = this.#newThread();
  }

  get thread(): EngineThread {
    return this.#thread;
  }

  /** How models are computed, whatever the number of threads: features of one precision are not those of another. */
  get compute(): string {
    const { threads: _, ...how } = this.#o.compile ?? { threads: 1, kv: 'f32' };
    return JSON.stringify(how);
  }

  cards(): readonly ModelCard[] {
    return [...this.#fronts.values()].map(({ card }) => card);
  }

  /** Folder of a base model, `null` when it is not served here. */
  baseDirOf(id: string): string | null {
    return this.#o.models.find((model) => model.id === id)?.dir ?? null;
  }

  /** Loads every base. @throws Error naming the folder that cannot be used */
  async start(): Promise<void> {
    for (const model of this.#o.models) {
      const { id, dir, adapterDir } = model;
      try {
        const front = await loadFront(id, dir, adapterDir);
        await this.#loadBase(model);
        this.#fronts.set(id, front);
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : String(cause);
        const where = adapterDir === undefined ? dir : `${dir} with the adapter ${adapterDir}`;
        throw new Error(`the model ${id} in ${where} cannot be served: ${why}`, { cause });
      }
    }
  }

  /** What a request names, loaded. @throws ApiError `model_not_found` */
  async resolve(request: Pick<GenerateRequest, 'model' | 'adapter'>): Promise<LoadedModel> {
    await this.#ready;
    const front = this.#fronts.get(request.model);
    if (front !== undefined) return { id: request.model, front, release: () => {} };
    if (request.adapter === undefined && !request.model.startsWith('ft:'))
      throw new ApiError(
        'model_not_found',
        `model: expected one of ${[...this.#fronts.keys()].join(', ')}, received ${JSON.stringify(request.model)}.`,
        { param: 'model' },
      );
    return await this.#resolveTuned(request);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#thread.close();
  }

  async #resolveTuned(request: Pick<GenerateRequest, 'model' | 'adapter'>): Promise<LoadedModel> {
    const overlay = await this.#o.fetchOverlay(request);
    let tuned = this.#tuned.get(overlay.key);
    if (tuned === undefined) {
      tuned = { ready: this.#loadTuned(request.model, overlay), usedAt: 0, users: 0 };
      const loading = tuned;
      this.#tuned.set(overlay.key, loading);
      loading.ready.catch(() => {
        if (this.#tuned.get(overlay.key) === loading) this.#tuned.delete(overlay.key);
      });
    }
    const mine = tuned;
    mine.usedAt = ++this.#uses;
    mine.users++;
    const release = () => {
      mine.users--;
      void this.#makeRoom();
    };
    try {
      return { ...(await mine.ready), release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #loadTuned(model: string, overlay: Overlay): Promise<Pick<LoadedModel, 'id' | 'front'>> {
    const base = this.#fronts.get(overlay.base);
    const dir = this.baseDirOf(overlay.base);
    if (base === undefined || dir === null)
      throw new ApiError(
        'model_not_found',
        `model: ${model} was tuned from ${overlay.base}, which this backend does not have.`,
        {
          param: 'model',
        },
      );
    if (base.card.capabilities.fineTune.length === 0) {
      const hasAdapter = this.#o.models.some(({ id, adapterDir }) => id === overlay.base && adapterDir !== undefined);
      const what = hasAdapter ? 'served with an adapter' : 'an imported model';
      throw new ApiError(
        'model_not_found',
        `model: ${model} was tuned from ${overlay.base}, which is ${what} here and takes no fine-tunes.`,
        { param: 'model' },
      );
    }
    await this.#makeRoom();
    const id = `tuned ${overlay.key}`;
    await this.#load(id, dir, overlay.dir);
    return { id, front: { ...base, visionDigest: overlay.key } };
  }

  /** Unloads fine-tunes that nobody uses, the one that was not used for longest first. */
  async #makeRoom(): Promise<void> {
    while (this.#tuned.size > this.#o.maxOverlays) {
      // Chosen anew every time: while one is unloaded, others come into use.
      const idle = [...this.#tuned].filter(([, { users }]) => users === 0);
      const [oldest] = idle.sort(([, a], [, b]) => a.usedAt - b.usedAt);
      if (oldest === undefined) return;
      const [key, tuned] = oldest;
      // Out of the books before the thread is told: who asks meanwhile loads it again, behind the unloading.
      this.#tuned.delete(key);
      const isGone = await this.#thread.call('unload', { model: `tuned ${key}` }).then(
        () => true,
        () => false,
      );
      if (isGone) continue;
      // A cancelled row is still leaving; the next request that needs room tries again.
      if (!this.#tuned.has(key)) this.#tuned.set(key, tuned);
      return;
    }
  }

  async #loadBase({ id, dir, adapterDir }: ServedModel): Promise<void> {
    await this.#load(id, dir, adapterDir ?? null);
  }

  async #load(model: string, dir: string, overlayDir: string | null): Promise<void> {
    const { capacity, adapters = 'auto', compile = { threads: 1, kv: 'f32' }, prefixCacheBytes = 0 } = this.#o;
    await this.#thread.call('load', { model, dir, overlayDir, capacity, compile, prefixCacheBytes, adapters });
  }

  /** A new thread starts empty: bases are loaded again before the next request, fine-tunes when they are asked for. */
  async #restart(): Promise<void> {
    this.#tuned = new Map();
    this.#thread = this.#newThread();
    // A thread that dies at once would otherwise be started as fast as the machine can.
    await sleep(Math.min(100 * 2 ** this.#deaths++, 10_000));
    for (const model of this.#o.models) await this.#loadBase(model);
    this.#deaths = 0;
  }

  #newThread(): EngineThread {
    return new EngineThread({
      featureCacheBytes: this.#o.featureCacheBytes,
      onDeath: (error) => {
        if (this.#closed) return;
        this.#o.onEngineDeath(error);
        this.#ready = this.#restart();
        this.#ready.catch(() => {});
      },
    });
  }
}
