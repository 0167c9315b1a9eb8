import type { BaseModel } from './base-model.ts';
import { DatasetError } from './chat-samples.ts';
import { verifyCheckpoint } from './checkpoint.ts';
import { DataError } from './examples.ts';
import type { FineTuneHooks, FineTuneResult, FineTuneSpec } from './finetune-spec.ts';
import { JobData } from './job-data.ts';
import { borrowBaseModel, type Loan } from './loans.ts';
import { modelPartOf, planStage, StageError } from './stage-plan.ts';
import { type JobProgress, runStage, stepsOf } from './stage-run.ts';
import { withChanges } from './stage-weights.ts';

/**
 * Fine-tunes a model in stages, each from the weights of the one before. The result depends on the spec alone: a job resumed from
 * any of its checkpoints ends with the same bits as one that was never interrupted (CPU, same number of threads).
 *
 * Errors of the data, options that the model cannot do, the time limit and divergence come back as `failed` with a code; OutOfMemory,
 * StorageFull and defects throw.
 */
export async function runFineTune(spec: FineTuneSpec, hooks: FineTuneHooks = {}): Promise<FineTuneResult> {
  let trainedTokens = 0;
  const fail = (code: string, message: string): FineTuneResult => ({ outcome: 'failed', code, message, trainedTokens });
  const data = new JobData(spec, hooks);
  let loan: Loan<BaseModel> | undefined;
  try {
    hooks.onPhase?.('preparing');
    const resume = spec.resumeDir === undefined ? undefined : await verifyCheckpoint(spec.resumeDir);
    const before = resume?.extra as unknown as JobProgress | undefined;
    trainedTokens = before?.trainedTokens ?? 0;
    // A base that is held in fewer bits is never in memory as a whole: its layers are read one by one.
    const isOnDisk = spec.stages.every(({ base_precision }) => (base_precision ?? 'f32') !== 'f32')
      ? (name: string) => modelPartOf(name) === 'decoder'
      : undefined;
    loan = await borrowBaseModel(spec.baseDir, spec.tunedDir, isOnDisk);
    let base = loan.value;
    const plans = spec.stages.map((stage, i) =>
      planStage(base.config, base.weights.keys(), stage, i, spec.validation !== undefined),
    );
    if (spec.resumeDir !== undefined) base = withChanges(base, spec.resumeDir);
    const selections = await data.selections(base, plans);
    for (const [i, { entries }] of selections.entries())
      if (entries.length === 0)
        return fail(
          'no_usable_examples',
          `stages[${i}] has no usable example: ${selections[i]?.notes.join(' ') || 'the data is empty.'}`,
        );
    const steps = plans.map((plan, i) => stepsOf(plan, selections[i]?.entries.length ?? 0));
    const planned = steps.reduce((a, b) => a + b, 0);
    const checkpointEvery = spec.checkpointEvery ?? Math.max(1, Math.ceil(planned / 10));

    const first = before?.stage ?? 0;
    let step = before?.offset ?? 0;
    let trainedMs = before?.trainedMs ?? 0;
    for (const plan of plans.slice(first)) {
      const { index } = plan;
      hooks.onPhase?.('preparing');
      const { training, validation } = await data.ofStage(base, plan);
      const result = await runStage({
        spec,
        hooks,
        base,
        plan,
        training,
        validation,
        offset: step,
        totalSteps: step + steps.slice(index).reduce((a, b) => a + b, 0),
        checkpointEvery,
        trainedTokens,
        trainedMs,
        resumeDir: index === before?.stage ? spec.resumeDir : undefined,
      });
      ({ step, trainedTokens, trainedMs } = result);
      if (result.outcome === 'diverged')
        return fail(
          'diverged',
          `losses or gradients of stages[${index}] were not finite again and again, after a rollback too; try a smaller learning_rate_multiplier`,
        );
      if (result.outcome === 'time_limit')
        return fail(
          'time_limit',
          `the job has trained for ${spec.maxDurationS} s, as long as it may; its checkpoints stay`,
        );
      if (result.outcome === 'enough') break;
      if (result.outcome === 'aborted') return { outcome: 'stopped', finalStep: step, trainedTokens };
      if (index < plans.length - 1) base = result.next();
    }
    return { outcome: 'succeeded', finalStep: step, trainedTokens };
  } catch (error) {
    if (error instanceof StageError) return fail('unsupported_parameter', error.message);
    if (error instanceof DatasetError || error instanceof DataError)
      return fail('invalid_training_file', error.message);
    throw error;
  } finally {
    await data.release();
    await loan?.release();
  }
}
