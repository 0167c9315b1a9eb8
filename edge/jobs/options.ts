/** From what a client asks of a job to its stages: everything decided that does not depend on the data's size or the backend. */
import { ApiError, describe, type Violation, violation } from '../../shared/contract/errors.ts';
import type { CreateJobRequest, Hyperparameters } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { TrainStage } from '../../shared/contract/models.ts';
import { RECIPES } from '../../shared/contract/recipes.ts';
import type { EvaluationOptions, MantisOptions, StageDraft, StageRequest } from '../../shared/contract/training.ts';
import type { KnownModel } from '../fleet/models.ts';
import type { StoredMantisOptions } from '../store/jobs.ts';

const WHERE = 'method.supervised.mantis';
/** Passes over the data where nothing is said. */
const DEFAULT_EPOCHS = 3;
const DEFAULT_LORA = { r: 16, alpha: 32 };

export type JobOptions = {
  mantis: StoredMantisOptions;
  hyperparameters: Hyperparameters;
  stages: StageDraft[];
  /** Ids of files or datasets, the job's own first; `StageDraft.data` is an index into it. */
  data: { id: string; param: string }[];
};

type Asked = Pick<CreateJobRequest, 'hyperparameters' | 'method' | 'training_file' | 'validation_file'>;

/** @throws ApiError `invalid_value` for what the model does not offer or what contradicts itself, everything at once */
export function decideOptions(request: Asked, { card, id }: Pick<KnownModel, 'card' | 'id'>): JobOptions {
  const asked: MantisOptions = request.method?.supervised?.mantis ?? {};
  const wrong: Violation[] = [];
  const offered = card.capabilities.fineTune;
  if (offered.length === 0) {
    const expected = 'a model that can be tuned; one that was imported or is served with an adapter cannot';
    throw ApiError.from([violation('invalid_value', 'model', { expected, received: id })]);
  }
  if (asked.stages !== undefined && asked.stage !== undefined)
    wrong.push(violation('invalid_value', `${WHERE}.stage`, { expected: 'either stage or stages', received: 'both' }));
  // A recipe is a list of stages: beside others it would say nothing.
  const others = asked.stages !== undefined ? 'stages' : asked.stage !== undefined ? 'stage' : undefined;
  if (asked.preset !== undefined && others !== undefined)
    wrong.push(
      violation('invalid_value', `${WHERE}.preset`, { expected: `either preset or ${others}`, received: 'both' }),
    );
  const data = [{ id: request.training_file, param: 'training_file' }];
  const whole = { ...request.hyperparameters, ...request.method?.supervised?.hyperparameters };
  const said = (value: number | 'auto' | undefined) => (value === 'auto' ? undefined : value);
  const plan = planOf(asked);
  const stages = plan.stages.map((stage, i): StageDraft => {
    const path = plan.isList ? `${WHERE}.stages[${i}]` : WHERE;
    check(stage, path, i);
    const { training_file, n_epochs, batch_size, learning_rate_multiplier, lora, ...settings } = stage;
    // In a list the stage's own word counts; a recipe's numbers give way to what is said for the job.
    const pick = (own: number | undefined, job: number | undefined) => (plan.isList ? (own ?? job) : (job ?? own));
    return {
      ...settings,
      ...(stage.train === 'lora' ? { lora: lora ?? DEFAULT_LORA, ...projectorBeside(plan.stages, i) } : {}),
      n_epochs: pick(n_epochs, said(whole.n_epochs)) ?? DEFAULT_EPOCHS,
      batch_size: pick(batch_size, said(whole.batch_size)) ?? null,
      learning_rate_multiplier: pick(learning_rate_multiplier, said(whole.learning_rate_multiplier)) ?? 1,
      data: training_file === undefined ? 0 : listOf(training_file, `${path}.training_file`),
    };
  });
  if (wrong.length > 0) throw ApiError.from(wrong);
  const last = stages.at(-1);
  const mantis: StoredMantisOptions = { ...asked, stage: kindOf(stages) };
  if (asked.stages === undefined && last?.lora !== undefined) mantis.lora = last.lora;
  if (asked.evaluation !== undefined) mantis.evaluation = decideEvaluation(asked.evaluation);
  const hyperparameters: Hyperparameters = {
    n_epochs: said(whole.n_epochs) ?? last?.n_epochs ?? DEFAULT_EPOCHS,
    batch_size: said(whole.batch_size) ?? last?.batch_size ?? 'auto',
    learning_rate_multiplier: said(whole.learning_rate_multiplier) ?? 1,
  };
  return { mantis, hyperparameters, stages, data };

  function listOf(file: string, param: string): number {
    const known = data.findIndex((entry) => entry.id === file);
    return known >= 0 ? known : data.push({ id: file, param }) - 1;
  }

  function check(stage: StageRequest, path: string, i: number): void {
    const train = `${path}.${plan.isList ? 'train' : 'stage'}`;
    const refuse = (param: string, expected: string, received: unknown) =>
      wrong.push(violation('invalid_value', param, { expected, received: describe(received) }));
    if (!offered.includes(stage.train)) refuse(train, `one of ${offered.join(', ')} for ${id}`, stage.train);
    if (stage.train === 'lora' && i < plan.stages.length - 1)
      refuse(train, '"lora" in the last stage only', stage.train);
    // At the top it is meant for those stages that have adapters.
    const ownLora = plan.isList ? asked.stages?.[i]?.lora : asked.lora;
    if (stage.train !== 'lora' && ownLora !== undefined)
      refuse(`${path}.lora`, `"${plan.isList ? 'train' : 'stage'}": "lora" beside it`, stage.train);
    if (stage.train === 'full' && stage.base_precision !== undefined && stage.base_precision !== 'f32')
      refuse(
        `${path}.base_precision`,
        '"f32" where all weights move; a smaller base is for projector and lora',
        stage.base_precision,
      );
    if (stage.early_stopping !== undefined && request.validation_file == null)
      refuse(`${path}.early_stopping`, 'a validation_file to measure on', null);
  }
}

/** With its defaults filled in; `max_examples` stays open, the file may be shorter. */
export function decideEvaluation(asked: EvaluationOptions): EvaluationOptions {
  return {
    every: 'checkpoint',
    image_orders: 1,
    text_only: false,
    confidence: LIMITS.jobs.defaultEvaluationConfidence,
    keep_best: false,
    ...asked,
  };
}

/**
 * A projector that an earlier stage has just aligned goes on learning beside the adapters, unless the stage says otherwise: frozen, it held LoRA at 78 % of
 * what full tuning gained on NLVR; moving, LoRA gained as much (gpu-backend/train/LOG.md).
 */
function projectorBeside(stages: readonly StageRequest[], i: number): Pick<StageRequest, 'part_rates'> {
  const rates = stages[i]?.part_rates;
  const wasTrained = stages.slice(0, i).some(({ train }) => train === 'projector');
  return wasTrained && rates?.projector === undefined ? { part_rates: { ...rates, projector: 1 } } : {};
}

/** The stages with the job's defaults in them. */
function planOf(asked: MantisOptions): { isList: boolean; stages: StageRequest[] } {
  const {
    preset,
    stage,
    stages,
    checkpoint_every: _every,
    checkpoints_kept: _kept,
    max_bad_share: _share,
    max_duration_s: _limit,
    evaluation: _evaluation,
    ...defaults
  } = asked;
  if (stages !== undefined) return { isList: true, stages: stages.map((own) => ({ ...defaults, ...own })) };
  if (preset !== undefined && stage === undefined)
    return { isList: false, stages: RECIPES[preset].stages.map((published) => ({ ...published, ...defaults })) };
  return { isList: false, stages: [{ ...defaults, train: stage ?? 'lora' }] };
}

/** What serving has to lay over the base: adapters, everything, or the projector. */
function kindOf(stages: readonly { train: TrainStage }[]): TrainStage {
  if (stages.at(-1)?.train === 'lora') return 'lora';
  return stages.some(({ train }) => train === 'full') ? 'full' : 'projector';
}
