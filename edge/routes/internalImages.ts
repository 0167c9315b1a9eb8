/** Pictures that training data names, for the backend that validates it or trains on it: `GET /internal/{tasks|jobs}/{id}/images?reference=…`. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage } from '../../shared/contract/errors.ts';
import { type PictureScope, pinPicture } from '../datasets/pictures.ts';
import type { AppEnv } from '../env.ts';
import { findJob } from '../store/jobs.ts';
import { findTask } from '../store/tasks.ts';

/** For a task: what it reads first is what it gets from then on. */
export async function taskImage(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const task = await findTask(c.env.DB, id);
  if (task === null) throw new ApiError('job_not_found', `No task ${describe(id)}.`);
  return serve(c, { tenant: task.tenant, scope: task.id });
}

/** For a job: what its validation saw. */
export async function jobImage(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const job = await findJob(c.env.DB, id);
  if (job === null) throw new ApiError('job_not_found', `No job ${describe(id)}.`);
  return serve(c, { tenant: job.tenant, scope: job.validation_task ?? job.id });
}

async function serve(c: Context<AppEnv>, scope: PictureScope): Promise<Response> {
  const reference = c.req.query('reference');
  if (reference === undefined)
    throw new ApiError(
      'missing_required_parameter',
      errorMessage('reference', { expected: 'a picture’s address or id', received: 'nothing' }),
      { param: 'reference' },
    );
  const pin = await pinPicture(c.env, scope, reference, c.req.raw.signal);
  const object = await c.env.BLOBS.get(pin.object_key);
  if (object === null) throw new Error(`picture ${pin.digest} of ${pin.scope} is pinned and its object is gone`);
  return new Response(object.body, {
    headers: { 'content-type': 'application/octet-stream', 'content-length': String(object.size) },
  });
}
