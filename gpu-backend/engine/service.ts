import type {
  BackendScoreRequest,
  BackendScoreResponse,
  CountRequest,
  CountResponse,
  GenerateEvent,
  GenerateRequest,
} from '../../shared/contract/backend.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import type { TierStats } from './feature-store.ts';
import type { PictureCounts } from './pictures.ts';
import type { EngineStats } from './protocol.ts';

/** What is counted on both sides of the engine thread. */
export interface ServiceStats extends EngineStats {
  readonly pictures: Readonly<PictureCounts>;
  /** Below the engine's memory, nearest first. */
  readonly featureTiers: readonly TierStats[];
}

/** The models of this process as the server sees them. Refusals are `ApiError`s, thrown before the first event. */
export interface ModelService {
  cards(): readonly ModelCard[];
  /** Requests between arrival and their last event. */
  readonly inFlight: number;
  /** `started`, `delta`s, then `finished` or `error`. Aborting, or leaving the loop, frees the row within one step. */
  generate(
    request: GenerateRequest,
    blobs: readonly Uint8Array[],
    signal: AbortSignal,
  ): AsyncGenerator<GenerateEvent, void, undefined>;
  /** Log-probability of each option after the prompt; nothing is generated. */
  score(request: BackendScoreRequest, blobs: readonly Uint8Array[], signal: AbortSignal): Promise<BackendScoreResponse>;
  /** Exactly the tokens that `generate` and `score` will find; nothing is queued and no weights are needed. */
  count(request: CountRequest, blobs: readonly Uint8Array[]): Promise<CountResponse>;
  stats(): Promise<ServiceStats>;
}
