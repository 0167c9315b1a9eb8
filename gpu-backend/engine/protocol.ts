/** Messages between the server's thread and the engine's. Plain data only: everything here crosses by structured clone. */
import type { AdapterMode } from './adapter-mode.ts';
import type { EngineCounters } from './counters.ts';
import type { EngineEvent, EngineLoad } from './engine.ts';
import type { PrefixCounters } from './kv/prefix-tree.ts';
import type { EngineRequest } from './live-request.ts';
import type { CompileOptions } from './load-model.ts';
import type { Capacity } from './scheduler/types.ts';

/** What the engine thread loads: a checkpoint folder, optionally with tuned weights laid over it. */
export interface LoadSpec {
  /** Id under which requests name it. */
  readonly model: string;
  readonly dir: string;
  /** Folder of a fine-tune's files, or `null` for the plain checkpoint. */
  readonly overlayDir: string | null;
  /** How the fine-tune's adapter is served, if it has one. */
  readonly adapters: AdapterMode;
  readonly capacity: Capacity;
  readonly compile: CompileOptions;
  readonly prefixCacheBytes: number;
}

/** Requests that are answered; `Calls[K]` gives argument and result of each. */
export interface Calls {
  load: { readonly argument: LoadSpec; readonly result: null };
  unload: { readonly argument: { readonly model: string }; readonly result: null };
  /** Pins the cached features among `keys` for a request to come; gives the indices that are not cached. */
  hold: {
    readonly argument: { readonly request: string; readonly keys: readonly string[] };
    readonly result: readonly number[];
  };
  /** Adds features found elsewhere, pinned as those of `hold`; of the keys in `want`, a copy is sent once computed. */
  restore: {
    readonly argument: {
      readonly request: string;
      readonly found: readonly { readonly key: string; readonly features: Float32Array }[];
      readonly want: readonly string[];
    };
    readonly result: null;
  };
  stats: { readonly argument: null; readonly result: EngineStats };
}

export type CallName = keyof Calls;

export type ToWorker =
  | {
      readonly [K in CallName]: {
        readonly type: 'call';
        readonly call: number;
        readonly name: K;
        readonly argument: Calls[K]['argument'];
      };
    }[CallName]
  | { readonly type: 'submit'; readonly model: string; readonly request: EngineRequest }
  | { readonly type: 'cancel'; readonly model: string; readonly id: string }
  /** Gives back what `hold` pinned, for a request that was never submitted. */
  | { readonly type: 'release'; readonly request: string };

export type FromWorker =
  | { readonly type: 'answer'; readonly call: number; readonly result: unknown }
  | { readonly type: 'refusal'; readonly call: number; readonly message: string }
  | { readonly type: 'events'; readonly events: readonly EngineEvent[] }
  /** What `restore` asked for. */
  | { readonly type: 'features'; readonly request: string; readonly key: string; readonly features: Float32Array };

export interface ModelStats extends EngineLoad {
  /** With its adapters. */
  readonly model: string;
  readonly kvBudgetTokens: number;
  readonly counters: EngineCounters;
  readonly prefixes: PrefixCounters;
}

export interface EngineStats {
  readonly models: readonly ModelStats[];
  /** Image features in memory. */
  readonly cache: {
    readonly bytes: number;
    readonly entries: number;
    readonly queries: number;
    readonly hits: number;
    readonly evictions: number;
  };
}
