import { familyOf } from '../models/family.ts';
import type { LoraSpec } from '../models/weights.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { BaseModel } from './base-model.ts';
import type { CollatedBatch } from './batch.ts';
import type { ParameterState } from './state.ts';
import { createTrainSession, type TrainSession } from './train-session.ts';
import { countCorrect, type GradientComputer, sessionComputer } from './trainer.ts';

/** Which weights move: the projector; low-rank adapters on the decoder; projector and decoder. The vision tower never does. */
export type FineTuneStage = 'projector' | 'lora' | 'full';

/**
 * Up to this many entries, the `lora` stage trains the output head too. A small vocabulary, fully trained, holds tokens that
 * never occurred: the head has learnt to rule them out, and adapters cannot bring them back (after 48 steps on answers of
 * new words the loss was still 4.5 nats a token). It is a few hundred kB beside the adapter.
 */
const SMALL_VOCABULARY = 8192;
const HEAD = 'language_model.lm_head.weight';

/** Training sessions of a stage; batches without any picture need a graph of their own, made when first met. */
export class StageSessions {
  private readonly made = new Map<boolean, Promise<{ session: TrainSession; computer: GradientComputer }>>();

  constructor(
    private readonly base: BaseModel,
    private readonly stage: FineTuneStage,
    private readonly lora: LoraSpec | undefined,
    private readonly threads: number,
  ) {}

  get(withImages: boolean): Promise<{ session: TrainSession; computer: GradientComputer }> {
    let entry = this.made.get(withImages);
    if (entry === undefined) {
      entry = this.create(withImages);
      this.made.set(withImages, entry);
    }
    return entry;
  }

  private async create(withImages: boolean): Promise<{ session: TrainSession; computer: GradientComputer }> {
    const frozenInput = familyOf(this.base.config).hasTower ? 'towerFeatures' : 'pixels';
    const session = await createTrainSession({
      config: this.base.config,
      options: {
        train: this.stage,
        images: withImages ? frozenInput : 'none',
        // Recomputing layers pays where activations, not weights, fill the memory.
        checkpointing: this.base.config.text.hidden >= 1024 ? 'layer' : 'none',
        ...(this.lora === undefined ? {} : { lora: this.lora, alsoTrain: this.trainsHead() ? [HEAD] : [] }),
      },
      threads: this.threads,
    });
    const trained = new Set(session.graph.trainable);
    const frozen: Record<string, Tensor> = {};
    for (const name of session.graph.weights.keys()) {
      const tensor = this.base.weights.get(name);
      if (!trained.has(name) && tensor !== undefined) frozen[name] = tensor;
    }
    return { session, computer: sessionComputer(session.session, frozen, session.feeds, session.graph.trainable) };
  }

  private trainsHead(): boolean {
    return this.base.config.text.vocab <= SMALL_VOCABULARY && this.base.weights.has(HEAD);
  }

  computer(): GradientComputer {
    return {
      accumulate: async (state, batches) => {
        const totals = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
        for (const withImages of [true, false]) {
          const own = batches.filter((b) => b.images.length > 0 === withImages);
          if (own.length === 0) continue;
          const part = await (await this.get(withImages)).computer.accumulate(state, own);
          totals.loss += part.loss;
          totals.correct += part.correct;
          totals.supervised += part.supervised;
          totals.tokens += part.tokens;
        }
        return totals;
      },
    };
  }

  /** Loss and right tokens of micro-batches whose weights add up to one. */
  async evaluate(
    state: ParameterState,
    batches: readonly CollatedBatch[],
  ): Promise<{ loss: number; correct: number; supervised: number }> {
    const sum = { loss: 0, correct: 0, supervised: 0 };
    for (const batch of batches) {
      const { session } = await this.get(batch.images.length > 0);
      const feeds: Record<string, Tensor> = { ...session.feeds(batch) };
      for (const name of session.graph.weights.keys()) {
        const tensor = this.base.weights.get(name);
        if (tensor !== undefined) feeds[name] = tensor;
      }
      for (const name of session.graph.trainable) {
        const p = state.get(name);
        feeds[name] = f32(p.value, p.shape);
      }
      const results = await session.session.run(feeds, ['loss', 'logits']);
      sum.loss += Number(results.loss?.data[0]);
      sum.correct += countCorrect(results.logits, batch.targets);
      sum.supervised += batch.rows.length;
    }
    return sum;
  }

  async release(): Promise<void> {
    for (const entry of this.made.values()) await (await entry).session.session.release();
  }
}
