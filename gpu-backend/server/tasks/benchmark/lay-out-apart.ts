import { fork } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { benchmarkPath } from '../../../../shared/contract/evalFiles.ts';
import { LIMITS } from '../../../../shared/contract/limits.ts';
import { childEnd } from '../../child-end.ts';
import { type EdgeClient, EdgeError } from '../../edge-client.ts';
import { TaskFailure } from '../../task-runner.ts';
import type { FromLayout, LayoutStart } from './child-protocol.ts';
import type { LaidOut } from './laid.ts';

const E = LIMITS.evals;
const MAX_ATTEMPTS = 12;

/**
 * Fetches the files of a benchmark and has them laid out by a process of its own: files are the client's, and must not cost the server more than this run.
 * @returns the folder to open with `LaidBenchmark`
 * @throws TaskFailure for files that are not those of the benchmark, and wishes that they cannot do
 */
export async function layOutApart(
  source: LayoutStart['source'],
  { edge, workDir, signal }: { readonly edge: EdgeClient; readonly workDir: string; readonly signal: AbortSignal },
): Promise<LaidOut & { readonly folder: string }> {
  const folder = join(workDir, 'files');
  const into = join(workDir, 'laid');
  await mkdir(folder, { recursive: true });
  for (const file of source.files) {
    const path = benchmarkPath(file.filename);
    // The edge has looked at it; what it sends decides where this process writes.
    if (path === null)
      throw new Error(`file ${file.id}: expected a relative path, received ${JSON.stringify(file.filename)}`);
    await again(signal, () =>
      edge.download(`/internal/files/${encodeURIComponent(file.id)}/content`, join(folder, path), file),
    );
  }
  const said = await inChild({ source, folder, into }, signal);
  if (said.type === 'refused')
    throw new TaskFailure('invalid_eval_items', `${source.benchmark}: ${said.message}`, said.param);
  if (said.type === 'crashed') throw new Error(`${source.benchmark}: ${said.message}`);
  await rm(folder, { recursive: true, force: true });
  return { ...said.laid, folder: into };
}

async function inChild(start: LayoutStart, signal: AbortSignal): Promise<FromLayout> {
  signal.throwIfAborted();
  const megabytes = Math.round(E.layoutMemoryBytes / 1024 ** 2);
  const child = fork(fileURLToPath(new URL('./child.ts', import.meta.url)), {
    execArgv: [`--max-old-space-size=${megabytes}`, '--import', import.meta.resolve('tsx')],
    // Nothing that it could call us or anybody else by.
    env: withoutSecrets(process.env),
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let isLate = false;
  const kill = () => void child.kill('SIGKILL');
  const late = setTimeout(() => {
    isLate = true;
    kill();
  }, E.layoutMs);
  signal.addEventListener('abort', kill, { once: true });
  let said: FromLayout | null = null;
  child.on('message', (message: FromLayout) => {
    said = message;
  });
  child.send(start);
  const end = await childEnd(child);
  clearTimeout(late);
  signal.removeEventListener('abort', kill);
  signal.throwIfAborted();
  if (said !== null) return said;
  if (isLate)
    return {
      type: 'refused',
      message: `its files were not read within ${E.layoutMs / 60_000} minutes`,
      param: 'data_source.file_ids',
    };
  // V8 ends a process that wants more memory than it may have.
  if (end.signal === 'SIGABRT' || end.code === 134)
    return {
      type: 'refused',
      message: `its files took more than ${megabytes} MiB of memory to read`,
      param: 'data_source.file_ids',
    };
  return { type: 'crashed', message: `the process that reads the files died (${end.how})` };
}

/** What a process needs to start, without keys and addresses of this installation. */
function withoutSecrets(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(([name]) => !/^(MANTIS_|AWS_)|SECRET|TOKEN|PASSWORD|API_KEY/i.test(name)),
  );
}

/** Repeats while the edge is away, full or fails; what it refuses is final. */
async function again<T>(signal: AbortSignal, call: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    signal.throwIfAborted();
    try {
      return await call();
    } catch (error) {
      if (error instanceof EdgeError && error.status >= 400 && error.status < 500) throw error;
      if (attempt === MAX_ATTEMPTS) throw error;
      await sleep(Math.min(100 * 2 ** attempt, 2_000), undefined, { signal });
    }
  }
}
