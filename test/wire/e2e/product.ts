/** Starts the whole product as its users do, with `npm start`, and talks to it only through the public door. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');

/** Issue bar: ready within 90 s of a start on a machine with two cores. */
const READY_TIMEOUT_MS = 90_000;
const STOP_TIMEOUT_MS = 30_000;
/** A backend that falls this often before the first ready line has a reason that waiting does not cure. */
const MAX_BACKEND_FALLS = 4;

export interface StartOptions {
  /** Folder of everything that is kept; default a new one. Give the same one again to restart after a kill. */
  readonly dataDir?: string;
  /** `host:port` list that webhooks may reach although private. */
  readonly egressAllow?: string;
  readonly apiKey?: string;
  readonly env?: Readonly<Record<string, string>>;
}

export interface Product {
  /** What the ready line said, e.g. `http://127.0.0.1:41233`. */
  readonly url: string;
  readonly apiKey: string;
  readonly dataDir: string;
  /** The official client, unchanged, pointed here. */
  readonly client: OpenAI;
  readonly readyAfterMs: number;
  /** Everything the product has printed so far. */
  output(): string;
  /** Ids of the process and of all its descendants that are alive now. */
  processes(): Promise<number[]>;
  /** SIGTERM; resolves with the exit code. Throws when it takes longer than half a minute. */
  terminate(): Promise<number | null>;
  /** SIGKILL to every process at once, as a power cut does. */
  killEverything(): Promise<void>;
}

export async function startProduct(options: StartOptions = {}): Promise<Product> {
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'mantis-e2e-')));
  const apiKey = options.apiKey ?? 'mk_test_0123456789abcdef0123456789abcdef';
  const startedAt = performance.now();
  const child = spawn('npm', ['start'], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PORT: '0',
      MANTIS_DATA_DIR: dataDir,
      MANTIS_API_KEY: apiKey,
      MANTIS_EGRESS_ALLOW: options.egressAllow ?? '',
      ...options.env,
    },
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));

  const url = await new Promise<string>((resolve, reject) => {
    const fail = (why: string): void => {
      child.kill('SIGKILL');
      reject(new Error(`the product ${why}; it printed:\n${output.slice(-4000)}`));
    };
    const timer = setTimeout(() => fail(`was not ready after ${READY_TIMEOUT_MS} ms`), READY_TIMEOUT_MS);
    const look = (): void => {
      if ((output.match(/backend_ended/g)?.length ?? 0) >= MAX_BACKEND_FALLS) fail('cannot keep its backend alive');
      const line = /^ready (http:\/\/127\.0\.0\.1:\d+)$/m.exec(output);
      if (line?.[1] === undefined) return;
      clearTimeout(timer);
      // From now on a backend that ends is the test's own matter.
      child.stdout.off('data', look);
      child.stderr.off('data', look);
      resolve(line[1]);
    };
    child.stdout.on('data', look);
    child.stderr.on('data', look);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      fail(`ended with ${signal ?? `exit code ${code}`} before it was ready`);
    });
  });

  return {
    url,
    apiKey,
    dataDir,
    client: new OpenAI({ apiKey, baseURL: `${url}/v1`, timeout: 120_000 }),
    readyAfterMs: performance.now() - startedAt,
    output: () => output,
    processes: () => treeOf(child),
    terminate: () => terminate(child),
    killEverything: async () => {
      // Stopped first, so that no parent sees a child die and starts another one between two kills.
      const pids = await treeOf(child);
      for (const signal of ['SIGSTOP', 'SIGKILL'] as const) {
        for (const pid of [...new Set([...pids, ...(await treeOf(child))])]) sendSignal(pid, signal);
      }
      await ended(child);
    },
  };
}

/** Ends a product and removes its data; safe after a kill, and after a start that failed. */
export async function stopAndForget(product: Product | undefined): Promise<void> {
  if (product === undefined) return;
  await product.terminate();
  await rm(product.dataDir, { recursive: true, force: true });
}

async function terminate(child: ChildProcess): Promise<number | null> {
  if (child.exitCode !== null || child.signalCode !== null) return child.exitCode;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await ended(child);
  clearTimeout(timer);
  if (child.signalCode === 'SIGKILL')
    throw new Error(`the product did not end within ${STOP_TIMEOUT_MS} ms of SIGTERM`);
  return child.exitCode;
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('exit', () => resolve()));
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Already gone.
  }
}

/** The process and its descendants, from /proc; a detached child counts as long as its parent lives. */
async function treeOf(child: ChildProcess): Promise<number[]> {
  if (child.pid === undefined) return [];
  const parents = new Map<number, number>();
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (parent !== undefined && state !== 'Z') parents.set(pid, Number(parent));
  }
  const tree = parents.has(child.pid) ? [child.pid] : [];
  for (const pid of tree) for (const [other, parent] of parents) if (parent === pid) tree.push(other);
  return tree;
}
