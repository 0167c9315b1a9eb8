/**
 * What every start of the door needs and what is the same for one state of the sources: the Worker as one module, its options as wrangler reads them, a
 * database with its tables. Each is made once and kept in `node_modules/.cache`; where that cannot be written, a start takes two seconds longer.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { cp, mkdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { WorkerOptions } from 'miniflare';
import { bundleWorker } from './bundle.ts';
import { CACHE, digestOf, filesIn, forgetOld } from './bundle-backend.ts';

const HERE = dirname(fileURLToPath(import.meta.url));
const CONFIG = join(HERE, 'wrangler.jsonc');
const DOORS = join(CACHE, 'doors');

/** Bindings, variables and flags of `deploy/wrangler.jsonc` in Miniflare's form; the modules are not among them. */
export type WorkerSetup = Omit<WorkerOptions, 'modules' | 'script' | 'scriptPath'>;

/** @returns the minified module's text, as `bundleWorker` makes it of these sources */
export async function preparedWorker(options: { testSeams: boolean }): Promise<string> {
  const digest = digestOf([...filesIn('edge'), ...filesIn('shared'), 'deploy/bundle.ts'], String(options.testSeams));
  const folder = await kept(`worker-${digest}`, async (draft) => {
    await writeFile(join(draft, 'worker.js'), await bundleWorker(options));
  });
  return folder === null ? await bundleWorker(options) : await readFile(join(folder, 'worker.js'), 'utf8');
}

/** Reading them takes the whole of wrangler, which takes a second to load. */
export async function preparedSetup(): Promise<WorkerSetup> {
  if (mayHoldSecrets()) return await readSetup();
  const folder = await kept(`setup-${digestOf(['deploy/wrangler.jsonc'])}`, async (draft) => {
    await writeFile(join(draft, 'setup.json'), JSON.stringify(await readSetup()));
  });
  if (folder === null) return await readSetup();
  return JSON.parse(await readFile(join(folder, 'setup.json'), 'utf8')) as WorkerSetup;
}

/**
 * Puts a database that has its tables and nothing in them where there is none.
 * @param storeDir where the Worker's stores are
 * @param make does the same in an empty folder, the long way
 * @returns false where there was one, or none can be kept
 */
export async function copyTables(
  storeDir: string,
  migrations: readonly string[],
  make: (storeDir: string) => Promise<void>,
  cache: string = DOORS,
): Promise<boolean> {
  if (existsSync(join(storeDir, 'd1'))) return false;
  const files = migrations.map((name) => `edge/store/migrations/${name}`);
  const folder = await kept(`tables-${digestOf(['deploy/wrangler.jsonc', ...files])}`, make, cache);
  if (folder === null) return false;
  // Under another name first: a start that is killed meanwhile leaves no half of a database.
  const draft = join(storeDir, `d1.${randomUUID().slice(0, 8)}`);
  await cp(join(folder, 'd1'), draft, { recursive: true });
  await rename(draft, join(storeDir, 'd1'));
  return true;
}

async function readSetup(): Promise<WorkerSetup> {
  const { unstable_getMiniflareWorkerOptions } = await import('wrangler');
  return unstable_getMiniflareWorkerOptions(CONFIG).workerOptions;
}

/** Wrangler adds what such files and variables say: that is read each time and never kept. */
function mayHoldSecrets(): boolean {
  const { CLOUDFLARE_ENV, CLOUDFLARE_INCLUDE_PROCESS_ENV } = process.env;
  if (CLOUDFLARE_ENV !== undefined || CLOUDFLARE_INCLUDE_PROCESS_ENV !== undefined) return true;
  return readdirSync(HERE).some((name) => /^\.(dev\.vars|env)/.test(name));
}

/**
 * @param make writes into an empty folder
 * @returns the folder of that name with what was written; null where nothing can be kept
 */
async function kept(name: string, make: (draft: string) => Promise<void>, cache = DOORS): Promise<string | null> {
  const target = join(cache, name);
  if (existsSync(target)) {
    const now = new Date();
    await utimes(target, now, now).catch(() => {});
    return target;
  }
  const draft = `${target}.${randomUUID().slice(0, 8)}`;
  try {
    await mkdir(draft, { recursive: true });
  } catch {
    return null;
  }
  try {
    await make(draft);
    await rename(draft, target).catch((error: unknown) => {
      // Two starts made it at the same time.
      if (!existsSync(target)) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  await forgetOld(cache, target);
  return target;
}
