/**
 * The process that validates the data of one task: fetches the files, looks at every line and picture, and tells its parent the result. It holds no lease and
 * writes nothing but the file of all problems, which belongs to nobody until the parent's answer names it.
 */
import { stat } from 'node:fs/promises';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DataSpec } from '../../../shared/contract/backend.ts';
import { StagedObject } from '../../../shared/contract/backend.ts';
import type { ValidateResult } from '../../../shared/contract/taskResults.ts';
import type { FineTuneData } from '../../train/finetune-spec.ts';
import { estimateTraining } from '../../train/validate/estimate.ts';
import type { HeldOutInput, ValidateHooks } from '../../train/validate/input.ts';
import { UnavailablePicture } from '../../train/validate/pictures.ts';
import { validateData } from '../../train/validate/validate.ts';
import { EdgeClient, EdgeError } from '../edge-client.ts';
import { OverlayStore } from '../overlay-store.ts';
import type { FromValidator, ValidateStart } from './validate-protocol.ts';

/** The edge may be restarting; its own start takes a few seconds. */
const MAX_ATTEMPTS = 12;
const PROGRESS_EVERY_MS = 500;

function tell(message: FromValidator): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined) resolve();
    else process.send(message, () => resolve());
  });
}

async function work(start: ValidateStart): Promise<ValidateResult> {
  const { spec, workDir, taskId } = start;
  const edge = new EdgeClient({ url: start.edgeUrl, secret: start.secret });
  const task = `/internal/tasks/${encodeURIComponent(taskId)}`;
  const training: FineTuneData[] = [];
  for (const list of spec.training) training.push(await fetchData(edge, list, workDir));
  const validation = spec.validation === null ? null : await fetchData(edge, spec.validation, workDir);
  const heldOut: HeldOutInput[] = [];
  for (const { data, param, options = [] } of spec.heldOut ?? [])
    heldOut.push({ data: await fetchData(edge, data, workDir), param, options });
  const estimate: NonNullable<ValidateHooks['estimate']> = async (lists, stages, table) => {
    const { adapter } = spec;
    const tuned = adapter === null ? null : await new OverlayStore(edge, workDir).fetch({ model: adapter.id, adapter });
    return await estimateTraining(lists, stages, table, {
      baseDir: start.baseDir,
      ...(tuned === null ? {} : { tunedDir: tuned.dir }),
      workDir,
      threads: start.threads,
      backend: start.backendId,
    });
  };
  let saidAt = 0;
  const { problemsPath, ...result } = await validateData(
    {
      baseDir: start.baseDir,
      training,
      ...(validation === null ? {} : { validation }),
      heldOut,
      stages: spec.stages,
      maxBadShare: spec.maxBadShare,
      workDir,
    },
    {
      ...(spec.estimate ? { estimate } : {}),
      fetchImage: (reference) => fetchImage(edge, task, reference),
      onProgress: (progress) => {
        if (performance.now() - saidAt < PROGRESS_EVERY_MS) return;
        saidAt = performance.now();
        void tell({ type: 'progress', progress });
      },
    },
  );
  if (problemsPath === null) return { ...result, allProblems: null };
  const answer = await again(() => edge.putFile(`${task}/problems`, problemsPath));
  return { ...result, allProblems: StagedObject.parse(answer) };
}

async function fetchData(edge: EdgeClient, spec: DataSpec, workDir: string): Promise<FineTuneData> {
  const paths: string[] = [];
  for (const { file } of spec.files) {
    // Equal bytes are fetched once, whatever names they have.
    const path = join(workDir, 'files', file.sha256);
    const isThere = await stat(path).then(
      () => true,
      () => false,
    );
    if (!isThere)
      await again(() => edge.download(`/internal/files/${encodeURIComponent(file.id)}/content`, path, file));
    paths.push(path);
  }
  return { spec, paths };
}

async function fetchImage(edge: EdgeClient, task: string, reference: string): Promise<Uint8Array> {
  try {
    return await again(() => edge.getBytes(`${task}/images?reference=${encodeURIComponent(reference)}`));
  } catch (error) {
    // About the picture; what is about the task ends it.
    if (error instanceof EdgeError && error.code !== null && /image/.test(error.code))
      throw new UnavailablePicture(error.code, error.message.replace(/^.*?: expected 2xx, received \d+: /, ''));
    throw error;
  }
}

/** Repeats while the edge is away, full or fails; what it refuses is final. */
async function again<T>(call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof EdgeError && error.status >= 400 && error.status < 500) throw error;
      if (attempt === MAX_ATTEMPTS) throw error;
      await sleep(Math.min(100 * 2 ** attempt, 2_000));
    }
  }
}

async function run(start: ValidateStart): Promise<void> {
  try {
    await tell({ type: 'done', result: await work(start) });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(`validator: ${error instanceof Error ? (error.stack ?? message) : message}\n`);
    await tell({ type: 'crashed', message });
  }
  process.exit(0);
}

// Answers come before validation where both want the processor.
setPriority(10);
process.on('disconnect', () => process.exit(1));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
process.on('message', (message: ValidateStart) => void run(message));
