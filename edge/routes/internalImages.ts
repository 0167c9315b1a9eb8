/** Pictures that training data names, for the backend that validates it or trains on it: `GET /internal/{tasks|jobs}/{id}/images?reference=…`. */
import type { Context } from 'hono';
import type { DataSpec, TaskSpec } from '../../shared/contract/backend.ts';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { type PictureScope, pictureScope, pinPicture } from '../datasets/pictures.ts';
import { dataDigest } from '../datasets/spec.ts';
import type { AppEnv, Env } from '../env.ts';
import { findJob, type HeldOutData, type JobRow } from '../store/jobs.ts';
import { addReader } from '../store/pins.ts';
import { findRun } from '../store/scheduleRuns.ts';
import { findTask, type TaskRow } from '../store/tasks.ts';

/** Scopes of work that has asked this isolate, by its id: the data of a job or task never changes. */
const scopes = new Map<string, PictureScope>();
const MAX_SCOPES = 256;

export async function taskImage(c: Context<AppEnv>): Promise<Response> {
  return serve(c, async (env, id) => {
    const task = await findTask(env.DB, id);
    if (task === null) throw new ApiError('job_not_found', `No task ${describe(id)}.`);
    const spec = JSON.parse(task.spec) as TaskSpec;
    return { tenant: task.tenant, lists: (await listsOfGate(env, task, spec)) ?? listsOf(spec) };
  });
}

export async function jobImage(c: Context<AppEnv>): Promise<Response> {
  return serve(c, async (env, id) => {
    const job = await findJob(env.DB, id);
    if (job === null) throw new ApiError('job_not_found', `No job ${describe(id)}.`);
    return { tenant: job.tenant, lists: listsOfJob(job) };
  });
}

/** All that its validation read: equal lists have equal pictures. */
function listsOfJob(job: JobRow): DataSpec[] {
  const heldOut = job.held_out === null ? null : (JSON.parse(job.held_out) as HeldOutData);
  return [
    ...(JSON.parse(job.training) as DataSpec[]),
    ...(job.validation === null ? [] : [JSON.parse(job.validation) as DataSpec]),
    ...(heldOut?.evaluation == null ? [] : [heldOut.evaluation]),
    ...(heldOut?.gate == null ? [] : [heldOut.gate.data]),
  ];
}

/** A gate asks with the pictures that were validated before the training: they may be gone from the web by now. */
async function listsOfGate(env: Env, task: TaskRow, spec: TaskSpec): Promise<DataSpec[] | null> {
  if (spec.kind !== 'compare' || task.subject === null) return null;
  const run = await findRun(env.DB, task.subject);
  const job = run?.job_id == null ? null : await findJob(env.DB, run.job_id);
  if (job === null || job.held_out === null) return null;
  const { gate } = JSON.parse(job.held_out) as HeldOutData;
  const isSame = gate !== null && (await dataDigest(gate.data)) === (await dataDigest(spec.heldOut));
  return isSame ? listsOfJob(job) : null;
}

function listsOf(spec: TaskSpec): DataSpec[] {
  if (spec.kind === 'evaluate') {
    if (spec.source.type !== 'lines') return [];
    const { file } = spec.source.lines;
    return [{ files: [{ file_id: file.id, file, filename: file.id }], balancing: false }];
  }
  if (spec.kind === 'compare') return [spec.heldOut];
  const heldOut = spec.heldOut?.map(({ data }) => data) ?? [];
  return [...spec.training, ...(spec.validation === null ? [] : [spec.validation]), ...heldOut];
}

async function serve(
  c: Context<AppEnv>,
  find: (env: Env, id: string) => Promise<{ tenant: string; lists: DataSpec[] }>,
): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const reference = c.req.query('reference');
  if (reference === undefined)
    throw new ApiError(
      'missing_required_parameter',
      errorMessage('reference', { expected: 'a picture’s address or id', received: 'nothing' }),
      { param: 'reference' },
    );
  let scope = scopes.get(id);
  if (scope === undefined) {
    const { tenant, lists } = await find(c.env, id);
    scope = await pictureScope(tenant, lists);
    await addReader(c.env.DB, tenant, scope.scope, id).run();
    const [oldest] = scopes.keys();
    if (scopes.size >= MAX_SCOPES && oldest !== undefined) scopes.delete(oldest);
    scopes.set(id, scope);
  }
  const pin = await pinPicture(c.env, scope, reference, c.req.raw.signal);
  const object = await c.env.BLOBS.get(pin.object_key);
  if (object === null) throw new Error(`picture ${pin.digest} of ${pin.scope} is pinned and its object is gone`);
  return new Response(object.body, {
    headers: { 'content-type': 'application/octet-stream', 'content-length': String(object.size) },
  });
}
