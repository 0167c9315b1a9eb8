/** Making a job: what a request and a schedule have in common. */
import { ApiError } from '../../shared/contract/errors.ts';
import type { CreateJobRequest } from '../../shared/contract/jobs.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Gate } from '../../shared/contract/schedules.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import { dataSpecOf } from '../datasets/spec.ts';
import { prepareValidation } from '../datasets/task.ts';
import type { Env } from '../env.ts';
import { resolveModel } from '../fleet/models.ts';
import { type Actor, auditEntry } from '../store/audit.ts';
import { insertEvent } from '../store/events.ts';
import { type HeldOutData, insertJob } from '../store/jobs.ts';
import { holdFiles, insertTask } from '../store/tasks.ts';
import { decideOptions } from './options.ts';

const EVALUATION_FILE = 'method.supervised.mantis.evaluation.held_out_file';
const GATE_FILE = 'gate.held_out_file';

export type PreparedJob = { id: string; statements: D1PreparedStatement[] };

/**
 * Checks a request and prepares the rows of its job and of the task that validates its data: one transaction makes the job. It begins as
 * `validating_files`.
 * @param options.id of the job; left out: a new one
 * @param options.guard SQL: the rows are written only where it is true
 * @param options.gate what the gate of its schedule will ask: it is validated with the job's data, before anything is trained
 * @throws ApiError for what the request gets wrong: model, files, options
 */
export async function prepareJob(
  env: Env,
  actor: Actor,
  request: CreateJobRequest,
  options: { id?: string; scheduleId?: string; guard?: string; gate?: Pick<Gate, 'held_out_file' | 'options'> } = {},
): Promise<PreparedJob> {
  const { tenant } = actor;
  const model = await resolveModel(env, tenant, request.model);
  const decided = decideOptions(request, model);
  const training = await Promise.all(decided.data.map(({ id, param }) => dataSpecOf(env, tenant, id, param)));
  const validation =
    request.validation_file == null ? null : await dataSpecOf(env, tenant, request.validation_file, 'validation_file');
  const { evaluation } = decided.mantis;
  const { gate } = options;
  const asked: HeldOutData = {
    evaluation:
      evaluation === undefined ? null : await dataSpecOf(env, tenant, evaluation.held_out_file, EVALUATION_FILE),
    gate:
      gate === undefined
        ? null
        : { file: gate.held_out_file, data: await dataSpecOf(env, tenant, gate.held_out_file, GATE_FILE) },
  };
  const heldOut = [
    ...(asked.evaluation === null
      ? []
      : [{ data: asked.evaluation, param: EVALUATION_FILE, options: evaluation?.options ?? null }]),
    ...(asked.gate === null ? [] : [{ data: asked.gate.data, param: GATE_FILE, options: gate?.options ?? null }]),
  ];
  const tooLarge = model.card.contextTokens;
  const overlong = decided.stages.find(({ max_tokens }) => max_tokens !== undefined && max_tokens > tooLarge);
  if (overlong !== undefined)
    throw new ApiError(
      'invalid_value',
      `method.supervised.mantis.max_tokens: expected at most ${tooLarge}, the context of ${model.card.id}, received ${overlong.max_tokens}.`,
      { param: 'method.supervised.mantis.max_tokens' },
    );

  const id = options.id ?? newId('ftjob-');
  const guard = options.guard ?? 'TRUE';
  const revision = crypto.randomUUID();
  const prepared = await prepareValidation(env, tenant, model, {
    training,
    validation,
    heldOut,
    stages: decided.stages,
    maxBadShare: decided.mantis.max_bad_share ?? LIMITS.jobs.defaultMaxBadShare,
  });
  // What the same data is was found out before: that validation counts, and the pictures that it read.
  const taskId = prepared.equal?.id ?? newId('dsval_');
  const statements = [
    insertJob(
      env.DB,
      {
        id,
        tenant,
        created_at: nowMs(),
        // An alias may stand for another model tomorrow.
        model: model.id,
        base_model: model.card.id,
        suffix: request.suffix ?? null,
        seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1,
        hyperparameters: decided.hyperparameters,
        mantis: decided.mantis,
        metadata: request.metadata == null ? null : JSON.stringify(request.metadata),
        training_file: request.training_file,
        validation_file: request.validation_file ?? null,
        training,
        validation,
        held_out: heldOut.length === 0 ? null : asked,
        stages: decided.stages,
        validation_task: taskId,
        schedule_id: options.scheduleId ?? null,
        revision,
      },
      guard,
    ),
    ...(prepared.equal !== null
      ? []
      : insertTask(
          env.DB,
          {
            id: taskId,
            tenant,
            subject: id,
            ...prepared,
            request: {
              model: model.id,
              training_file: request.training_file,
              validation_file: request.validation_file ?? null,
            },
          },
          guard,
        )),
    holdFiles(env.DB, id, prepared.fileIds, guard),
    insertEvent(
      env.DB,
      {
        jobId: id,
        key: 'created',
        createdAtMs: nowMs(),
        level: 'info',
        message: `Created fine-tuning job: ${id}`,
        type: 'message',
        data: null,
      },
      revision,
    ),
    auditEntry(
      env.DB,
      actor,
      {
        action: 'fine_tuning.job.created',
        object: id,
        data: { model: model.id, schedule: options.scheduleId ?? null },
      },
      guard,
    ),
  ];
  return { id, statements };
}
