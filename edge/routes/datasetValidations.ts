/** Validations without a job: a dry run, and what it would take. */
import type { Context } from 'hono';
import { CreateDatasetValidationRequest } from '../../shared/contract/datasets.ts';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { newId } from '../../shared/wire/ids.ts';
import { nowMs } from '../clock.ts';
import { insertValidation } from '../datasets/insert.ts';
import { dataSpecOf } from '../datasets/spec.ts';
import { prepareValidation } from '../datasets/task.ts';
import { showValidation, showWhole, type ValidationRequest } from '../datasets/validations.ts';
import { type AppEnv, actorOf, scheduler } from '../env.ts';
import { resolveModel } from '../fleet/models.ts';
import { decideOptions } from '../jobs/options.ts';
import { wakeBackends } from '../jobs/sweep.ts';
import { readJson } from '../middleware/body.ts';
import { auditEntry } from '../store/audit.ts';
import { applyToTask, getTask, listTasks, type TaskRow } from '../store/tasks.ts';
import { advanceAll } from '../tasks/advance.ts';
import { listQuery } from './query.ts';

const HELD_OUT_PARAM = 'mantis.evaluation.held_out_file';

/** `POST /v1/dataset_validations`. Where the same was validated before, that validation is the answer. */
export async function createDatasetValidation(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, CreateDatasetValidationRequest);
  const tenant = c.get('tenant');
  const model = await resolveModel(c.env, tenant, asked.model);
  const supervised = {
    ...(asked.hyperparameters === undefined ? {} : { hyperparameters: asked.hyperparameters }),
    ...(asked.mantis === undefined ? {} : { mantis: asked.mantis }),
  };
  const decided = decideOptions({ ...asked, method: { type: 'supervised', supervised } }, model);
  const validation =
    asked.validation_file == null ? null : await dataSpecOf(c.env, tenant, asked.validation_file, 'validation_file');
  const { held_out_file: heldOutFile, options = null } = decided.mantis.evaluation ?? {};
  const prepared = await prepareValidation(c.env, tenant, model, {
    training: await Promise.all(decided.data.map(({ id, param }) => dataSpecOf(c.env, tenant, id, param))),
    validation,
    heldOut:
      heldOutFile === undefined
        ? []
        : [{ data: await dataSpecOf(c.env, tenant, heldOutFile, HELD_OUT_PARAM), param: HELD_OUT_PARAM, options }],
    stages: decided.stages,
    maxBadShare: decided.mantis.max_bad_share ?? LIMITS.jobs.defaultMaxBadShare,
    estimate: true,
  });
  if (prepared.equal !== null) return c.json(await showWhole(c.env, prepared.equal));
  const id = newId('dsval_');
  const request: ValidationRequest = {
    model: asked.model,
    training_file: asked.training_file,
    validation_file: asked.validation_file ?? null,
  };
  const { spec, fileIds, inputDigest } = prepared;
  const most = LIMITS.dataset.maxPendingValidations;
  const task = { id, tenant, subject: null, spec, fileIds, inputDigest, request };
  const [made] = await c.env.DB.batch(insertValidation(c.env.DB, actorOf(c), task, most));
  if ((made?.meta.changes ?? 0) === 0)
    throw new ApiError(
      'rate_limit_exceeded',
      `Validations: ${most} of yours have not ended, which is the most there may be. Wait for one, or cancel one.`,
      { retryAfterMs: 60_000, shouldRetry: false },
    );
  c.executionCtx.waitUntil(wakeBackends(c.env));
  c.executionCtx.waitUntil(scheduler(c.env).wake());
  return c.json(showValidation(await existing(c, id)));
}

/** Without their reports. */
export async function listDatasetValidations(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listTasks(c.env.DB, c.get('tenant'), 'validate', listQuery(c), showValidation));
}

export async function retrieveDatasetValidation(c: Context<AppEnv>): Promise<Response> {
  return c.json(await showWhole(c.env, await existing(c)));
}

/** At once and final. A job that waits for it fails: cancel the job instead. */
export async function cancelDatasetValidation(c: Context<AppEnv>): Promise<Response> {
  const { id, subject } = await existing(c);
  const applied = await applyToTask(c.env.DB, id, { type: 'cancel' }, nowMs(), {
    along: (status, guard) => [
      auditEntry(c.env.DB, actorOf(c), { action: `dataset_validation.${status}`, object: id }, guard),
    ],
  });
  if (applied?.outcome.kind === 'refused')
    throw new ApiError('invalid_state', `Validation ${id} cannot be cancelled: ${applied.outcome.reason}.`, {
      param: 'id',
    });
  if (subject !== null) await advanceAll(c.env);
  return c.json(await showWhole(c.env, await existing(c)));
}

async function existing(c: Context<AppEnv>, id: string = c.req.param('id') ?? ''): Promise<TaskRow> {
  const row = await getTask(c.env.DB, c.get('tenant'), 'validate', id);
  if (row !== null) return row;
  throw new ApiError(
    'dataset_validation_not_found',
    errorMessage('id', {
      expected: 'the id of a dataset validation',
      received: describe(id),
      remedy: 'GET /v1/dataset_validations lists yours.',
    }),
    { param: 'id' },
  );
}
