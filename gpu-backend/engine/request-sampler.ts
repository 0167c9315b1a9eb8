import type { EngineRequest } from './live-request.ts';
import { type SampledToken, sample } from './sampler.ts';

/**
 * Chooses the tokens of one request. All state of sampling lives here: the engine keeps the object from arrival to end, also
 * while the request is preempted, and calls `next` once per generated token, in order. What it draws depends on the request and
 * on how many tokens it has drawn, never on batch mates.
 */
export class RequestSampler {
  readonly #request: Pick<EngineRequest, 'sampling' | 'topLogprobs'>;
  #drawn = 0;

  constructor(request: Pick<EngineRequest, 'tokenIds' | 'sampling' | 'topLogprobs' | 'maxNewTokens' | 'stopIds'>) {
    this.#request = request;
  }

  /** True when nothing may follow the token drawn last (a constraint is complete): the answer ends with reason `stop`. */
  get finished(): boolean {
    return false;
  }

  /**
   * The next token from the model's logits after the token drawn last. `logits_V` is only read.
   * @throws Error when the logits are not finite
   */
  next(logits_V: Float32Array): SampledToken {
    const { sampling, topLogprobs } = this.#request;
    return sample(logits_V, sampling, this.#drawn++, topLogprobs);
  }
}
