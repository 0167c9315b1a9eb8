/** What can be checked without a running server: the machine, the modules, the data folder, the port. */
import { readFileSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rm, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { freemem, totalmem } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Check, Finding } from './doctor.ts';
import { TEST_PICTURES } from './doctor-pictures.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const MIB = 2 ** 20;
/** A tuned model with its checkpoints takes tens of megabytes; the database must never meet a full disk. */
const LEAST_DISK_BYTES = 200 * MIB;
const ENOUGH_DISK_BYTES = 2_048 * MIB;
/** The door, a backend with the bundled model and its decode processes. */
const ENOUGH_MEMORY_BYTES = 1_024 * MIB;
/** Each client holds one; a thousand waiting clients and the stores have room. */
const ENOUGH_FILES = 4_096;

export function machineChecks(options: {
  readonly dataDir: string;
  readonly url: string;
  readonly port?: number;
}): Check[] {
  const dataDir = resolve(options.dataDir);
  return [
    { name: 'node', run: checkNode },
    { name: 'memory', run: checkMemory },
    { name: 'open files', run: checkFiles },
    { name: 'onnx runtime', run: checkRuntime },
    { name: 'picture decoder', run: checkDecoder },
    { name: 'data folder', run: () => checkDataFolder(dataDir) },
    { name: 'disk', needs: ['data folder'], run: () => checkDisk(dataDir) },
    { name: 'precision table', run: () => checkPrecisionTables(join(dataDir, 'backend', 'precision')) },
    { name: 'port', run: () => checkPort(options.url, options.port) },
  ];
}

async function checkNode(): Promise<Finding> {
  const text = await readFile(join(ROOT, 'package.json'), 'utf8');
  const { engines } = JSON.parse(text) as { engines: { node: string } };
  const wanted = engines.node.replace('>=', '');
  const numbers = (version: string): number[] => version.split('.').map(Number);
  const [have, want] = [numbers(process.versions.node), numbers(wanted)];
  const isOlder = (have[0] ?? 0) < (want[0] ?? 0) || (have[0] === want[0] && (have[1] ?? 0) < (want[1] ?? 0));
  return isOlder
    ? { status: 'fail', found: process.versions.node, remedy: `Install Node ${wanted} or newer.` }
    : { status: 'ok', found: process.versions.node };
}

function checkMemory(): Finding {
  // What the kernel would give without swapping; a container's own limit where there is one.
  const available =
    Number(/^MemAvailable:\s+(\d+) kB/m.exec(readIfThere('/proc/meminfo'))?.[1] ?? freemem() / 1024) * 1024;
  const [limit, used] = [cgroup('memory.max'), cgroup('memory.current')];
  const bytes = limit === null ? available : Math.min(available, limit - (used ?? 0));
  const found = `${mib(bytes)} free of ${mib(Math.min(limit ?? Number.POSITIVE_INFINITY, totalmem()))}`;
  if (bytes >= ENOUGH_MEMORY_BYTES) return { status: 'ok', found };
  return {
    status: 'warn',
    found,
    remedy: `The door and one backend with the bundled model want about ${mib(ENOUGH_MEMORY_BYTES)}. Free some, or lower MANTIS_KV_TOKENS and the cache sizes (deploy/README.md).`,
  };
}

function checkFiles(): Finding {
  const soft = /^Max open files\s+(\S+)/m.exec(readIfThere('/proc/self/limits'))?.[1];
  if (soft === undefined) return { status: 'skip', found: 'this system does not say' };
  if (soft === 'unlimited' || Number(soft) >= ENOUGH_FILES) return { status: 'ok', found: `up to ${soft}` };
  return {
    status: 'warn',
    found: `up to ${soft}, and each client takes one`,
    remedy: `Raise it before the start: ulimit -n ${ENOUGH_FILES} (LimitNOFILE= in a systemd unit).`,
  };
}

const REINSTALL =
  'Run npm ci --ignore-scripts again on this machine; native packages are for one system and processor.';

async function checkRuntime(): Promise<Finding> {
  // Loaded here: a native module that does not load is what is to be found out.
  const { probeDevice } = await import('../runtime/device-open.ts');
  const { problem, runtimeVersion, openMs } = await probeDevice('cpu');
  return problem === null
    ? { status: 'ok', found: `${runtimeVersion ?? 'some version'}, computes (opened in ${Math.round(openMs ?? 0)} ms)` }
    : { status: 'fail', found: problem, remedy: REINSTALL };
}

async function checkDecoder(): Promise<Finding> {
  try {
    const { decodeImage } = await import('../vision/decode.ts');
    const { width, height } = await decodeImage(Buffer.from(TEST_PICTURES[0], 'base64'));
    return { status: 'ok', found: `decodes (${width}x${height} pixels)` };
  } catch (error) {
    return { status: 'fail', found: error instanceof Error ? error.message : String(error), remedy: REINSTALL };
  }
}

/** Written, read and removed again, as a file of the database would be. */
async function checkDataFolder(dir: string): Promise<Finding> {
  const probe = join(dir, `.doctor-${process.pid}`);
  try {
    await mkdir(dir, { recursive: true });
    const file = await open(probe, 'wx');
    await file.writeFile('doctor');
    await file.sync();
    await file.close();
    if ((await readFile(probe, 'utf8')) !== 'doctor') throw new Error('what was written does not come back');
    await rm(probe);
    return { status: 'ok', found: dir };
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    const remedy = REMEDY_OF_CODE[code] ?? 'Name another folder by MANTIS_DATA_DIR.';
    return { status: 'fail', found: error instanceof Error ? error.message : String(error), remedy };
  }
}

const REMEDY_OF_CODE: Readonly<Record<string, string>> = {
  EACCES: 'Give this user the right to write there (chown, chmod u+rwx), or name another folder by MANTIS_DATA_DIR.',
  EPERM: 'Give this user the right to write there (chown, chmod u+rwx), or name another folder by MANTIS_DATA_DIR.',
  EROFS: 'It is mounted read-only: mount it writable, or name another folder by MANTIS_DATA_DIR.',
  ENOSPC: 'The disk is full: free some of it, or name a folder on another one by MANTIS_DATA_DIR.',
  EDQUOT: 'The quota of this user is used up: free some of it, or name a folder elsewhere by MANTIS_DATA_DIR.',
  ENOTDIR: 'Something on this path is a file: name another folder by MANTIS_DATA_DIR.',
  EEXIST: 'There is a file of this name: name another folder by MANTIS_DATA_DIR.',
};

async function checkDisk(dir: string): Promise<Finding> {
  const { bavail, bsize } = await statfs(dir);
  const free = bavail * bsize;
  const found = `${mib(free)} free`;
  if (free >= ENOUGH_DISK_BYTES) return { status: 'ok', found };
  const remedy = `Files, checkpoints and the feature cache (MANTIS_FEATURE_DISK_MIB) are kept in ${dir}: free some space or move it.`;
  return { status: free < LEAST_DISK_BYTES ? 'fail' : 'warn', found, remedy };
}

/** What backends have measured here: files that cannot be read would be measured again at every start. */
async function checkPrecisionTables(dir: string): Promise<Finding> {
  let names: string[];
  try {
    names = (await readdir(dir)).filter((name) => name.endsWith('.json'));
  } catch {
    return { status: 'ok', found: 'none yet; the first start of a backend measures one' };
  }
  const broken: string[] = [];
  for (const name of names) {
    try {
      const table: unknown = JSON.parse(await readFile(join(dir, name), 'utf8'));
      if (!hasFiniteTimes(table)) broken.push(name);
    } catch {
      broken.push(name);
    }
  }
  if (broken.length === 0) return { status: 'ok', found: `${names.length} measured` };
  return {
    status: 'warn',
    found: `cannot be used: ${broken.join(', ')}`,
    remedy: `Remove ${broken.length === 1 ? 'it' : 'them'} from ${dir}; the next start measures anew (npx mantis precision --fresh shows what).`,
  };
}

/** Whether every number in there is one; a table of a machine whose clock failed is not. */
function hasFiniteTimes(value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value) && value >= 0;
  if (typeof value !== 'object' || value === null) return true;
  return Object.values(value).every(hasFiniteTimes);
}

/** Free, or taken by an installation of ours; what else may listen there keeps `npm start` from starting. */
async function checkPort(url: string, given: number | undefined): Promise<Finding> {
  if (!URL.canParse(url))
    return { status: 'fail', found: `${url} is no URL`, remedy: 'Give --url as http://127.0.0.1:8787.' };
  const { hostname, port: ofUrl } = new URL(url);
  if (given === undefined && !['127.0.0.1', 'localhost', '[::1]'].includes(hostname))
    return { status: 'skip', found: `${hostname} is another machine` };
  const port = given ?? Number(ofUrl || '80');
  if (await isFree(port)) return { status: 'ok', found: `${port} is free` };
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/version`, { signal: AbortSignal.timeout(3_000) });
    const { name } = (await answer.json()) as { name?: string };
    if (name === 'mantis-edge') return { status: 'ok', found: `${port} is that of the running installation` };
  } catch {
    // Whatever it is, it is not ours.
  }
  return {
    status: 'fail',
    found: `${port} is taken by another program`,
    remedy: `Start with another one (PORT=8788 npm start; PORT=0 takes any) and tell clients by MANTIS_BASE_URL, or end what listens on ${port} (ss -ltnp shows it).`,
  };
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const server = createServer();
    server.once('error', () => done(false));
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
  });
}

function mib(bytes: number): string {
  return bytes >= 1_024 * MIB ? `${(bytes / 1_024 / MIB).toFixed(1)} GiB` : `${Math.round(bytes / MIB)} MiB`;
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** A limit of this process' control group (version 2), bytes; null where there is none. */
function cgroup(name: string): number | null {
  const path = /^0::(.*)$/m.exec(readIfThere('/proc/self/cgroup'))?.[1] ?? '/';
  const text =
    readIfThere(join('/sys/fs/cgroup', path, name)) || readIfThere(join('/sys/fs/cgroup', dirname(path), name));
  return /^\d+$/.test(text.trim()) ? Number(text) : null;
}
