import { familyOf } from '../models/family.ts';
import { storeFrozen } from '../models/frozen-weights.ts';
import { f32, type Tensor } from '../runtime/session.ts';
import type { BaseModel } from './base-model.ts';
import {
  type CollatedBatch,
  collate,
  type ImageSource,
  planMicroBatches,
  supervisedWeight,
  type TrainingSample,
  withImages,
} from './batch.ts';
import { borrowStoredWeights, borrowTrainSession, type Loan } from './loans.ts';
import { packedBatches } from './packing.ts';
import { causalBlocksAt, groupBlocksAt, type StagePlan } from './stage-plan.ts';
import type { ParameterState } from './state.ts';
import type { TrainSession } from './train-session.ts';
import { countCorrect, type GradientComputer, type StepTotals, sessionComputer } from './trainer.ts';

interface Made {
  readonly session: TrainSession;
  readonly frozen: Readonly<Record<string, Tensor>>;
  readonly computer: GradientComputer;
}

/**
 * Training sessions of a stage, and the micro-batches they take. Batches without any picture need a graph of their own, and so does
 * the validation loss, which has no backward pass; each is made when first met.
 */
export class StageSessions {
  private readonly made = new Map<string, Promise<Made>>();
  /** Sessions, and weights that do not move, as all graphs of the stage store them: other jobs of the process may use them too. */
  private readonly loans: Loan<unknown>[] = [];
  /** Causal blocks of padded micro-batches, and of the groups of packed ones. */
  private readonly blocks: number;
  private readonly groupBlocks: readonly number[];

  /** @param longest example of the stage and of the validation data, decoder positions */
  constructor(
    private readonly base: BaseModel,
    private readonly plan: StagePlan,
    longest: number,
    private readonly threads: number,
  ) {
    this.blocks = causalBlocksAt(longest);
    this.groupBlocks = groupBlocksAt(longest);
  }

  get(hasImages: boolean, lossOnly = false): Promise<Made> {
    const key = `${hasImages} ${lossOnly}`;
    let entry = this.made.get(key);
    if (entry === undefined) {
      entry = this.create(hasImages, lossOnly);
      this.made.set(key, entry);
    }
    return entry;
  }

  private async create(hasImages: boolean, lossOnly: boolean): Promise<Made> {
    const { config, weights } = this.base;
    const { stage, lora, alsoTrain, freeze, trainsVision, checkpointing, packing, basePrecision } = this.plan;
    const isFrozenTower = familyOf(config).hasTower && !trainsVision;
    const { value: session } = await this.borrow(
      borrowTrainSession({
        config,
        options: {
          train: stage.train,
          images: !hasImages ? 'none' : isFrozenTower ? 'towerFeatures' : 'pixels',
          alsoTrain,
          freeze,
          checkpointing,
          lossOnly,
          basePrecision,
          ...(lora === undefined ? {} : { lora }),
          ...(packing === undefined ? { causalBlocks: this.blocks } : { packedGroups: this.groupBlocks }),
        },
        threads: this.threads,
      }),
    );
    const { value: stored } = await this.borrow(borrowStoredWeights(this.base, basePrecision));
    const trained = new Set(session.graph.trainable);
    const { graph } = session.graph;
    const frozen = storeFrozen(
      graph,
      (name) => weights.get(name),
      (name) => trained.has(name),
      stored,
    );
    const computer = sessionComputer(session.session, frozen, session.feeds, session.graph.trainable);
    return { session, frozen, computer };
  }

  /** Micro-batches of one optimizer step of at most so many tokens; their weights add up to one. */
  batches(samples: readonly TrainingSample<ImageSource>[], microBatchTokens: number): CollatedBatch[] {
    const { packing } = this.plan;
    if (packing !== undefined) {
      const tokens = Math.min(packing.tokens, microBatchTokens);
      return packedBatches(samples, { tokens, images: packing.images }, this.groupBlocks);
    }
    const useful = samples.filter((s) => supervisedWeight([s]) > 0);
    const totalWeight = supervisedWeight(useful);
    const padId = this.base.config.text.padToken ?? this.base.config.text.eosTokens[0] ?? 0;
    return planMicroBatches(useful, (s) => s.layout.ids.length, microBatchTokens).map((group) =>
      collate(group, { padId, multiple: this.blocks, totalWeight }),
    );
  }

  computer(): GradientComputer {
    return {
      accumulate: async (state, batches) => {
        const totals = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
        for (const hasImages of [true, false])
          for (const batch of batches.filter((b) => b.images.length > 0 === hasImages)) {
            const { computer } = await this.get(hasImages);
            add(totals, await computer.accumulate(state, [await withImages(batch)]));
          }
        return totals;
      },
    };
  }

  /** Loss and right tokens of micro-batches whose weights add up to one. */
  async evaluate(state: ParameterState, batches: readonly CollatedBatch[]): Promise<StepTotals> {
    const sum = { loss: 0, correct: 0, supervised: 0, tokens: 0 };
    for (const batch of batches) {
      const { session, frozen } = await this.get(batch.images.length > 0, true);
      const feeds: Record<string, Tensor> = { ...frozen, ...session.feeds(await withImages(batch)) };
      for (const name of session.graph.trainable) {
        const tensor = this.base.weights.get(name);
        if (tensor !== undefined) feeds[name] = tensor;
      }
      for (const { name, value, shape } of state.parameters)
        if (session.graph.weights.has(name)) feeds[name] = f32(value, shape);
      const results = await session.session.run(feeds, ['loss', 'logits']);
      add(sum, {
        loss: Number(results.loss?.data[0]),
        correct: countCorrect(results.logits, batch.targets),
        supervised: batch.rows.length,
        tokens: batch.tokens,
      });
    }
    return sum;
  }

  private async borrow<T>(borrowing: Promise<Loan<T>>): Promise<Loan<T>> {
    const loan = await borrowing;
    this.loans.push(loan);
    return loan;
  }

  async release(): Promise<void> {
    for (const made of await Promise.allSettled(this.made.values()))
      if (made.status === 'fulfilled') made.value.computer.release?.();
    for (const loan of this.loans) await loan.release();
  }
}

type Sums = { -readonly [K in keyof StepTotals]: StepTotals[K] };

function add(sum: Sums, part: StepTotals): void {
  sum.loss += part.loss;
  sum.correct += part.correct;
  sum.supervised += part.supervised;
  sum.tokens += part.tokens;
}
