/**
 * The backend as a few JavaScript files, made once for each state of its sources and kept in `node_modules/.cache`: a start loads them in half the time
 * that compiling and resolving some hundred TypeScript files takes. Threads and child processes (engine, decoders, trainers) are entries of their own.
 */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build, type Plugin } from 'esbuild';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
/** What can be made again, for everything that is started from this folder. */
export const CACHE = join(ROOT, 'node_modules', '.cache', 'mantis-edge');
const MAIN = 'gpu-backend/main.ts';
/** `mantis`: its bin finds by `current` and `sources.json` whether this was built of the sources that are there (`gpu-backend/cli/built.mjs`). */
const CLI = 'gpu-backend/cli/main.ts';
const CURRENT = 'current';
/** Raised when what is written for the same sources changes. */
const VERSION = 3;
/** Of other states, so many are kept, and all that were used lately: a backend that runs starts its children from them. */
const KEPT = 3;
const KEPT_MS = 86_400_000;

/** Packages with native parts, or that look for files beside themselves. */
const EXTERNAL = ['onnxruntime-node', 'sharp', 'koffi', 'pino', '@aws-sdk/*'];
/** How a source names the script of a thread or a child process. */
const SCRIPT = /new URL\('(\.[^']*\.ts)', import\.meta\.url\)/g;

/**
 * Arguments for `node` that run the backend: what was built, else (a folder that cannot be written, a fault of the build) the sources themselves.
 * The sources' name comes last, so that lists of processes show what runs.
 */
export async function backendArguments(): Promise<string[]> {
  try {
    return [join(await builtBackend(), 'gpu-backend/main.js'), MAIN];
  } catch (error) {
    console.error(JSON.stringify({ level: 'warn', event: 'backend_not_built', error: String(error).slice(0, 500) }));
    return ['--import', import.meta.resolve('tsx'), join(ROOT, MAIN)];
  }
}

/** Builds unless that was done for these sources. @returns the folder that holds `gpu-backend/main.js` */
export async function builtBackend(cache: string = join(CACHE, 'builds')): Promise<string> {
  const sources = [...sourcesIn('gpu-backend'), ...sourcesIn('shared')];
  const target = join(cache, digestOf(sources));
  if (existsSync(join(target, 'gpu-backend/main.js'))) {
    const now = new Date();
    await utimes(target, now, now).catch(() => {});
    await setCurrent(cache, target);
    return target;
  }
  // Under another name first: two starts may build at the same time.
  const draft = `${target}.${randomUUID().slice(0, 8)}`;
  try {
    await mkdir(cache, { recursive: true });
    const before = statsOf(sources);
    await buildInto(draft, target, [MAIN, CLI, ...scriptsOf(sources)]);
    await writeFile(join(draft, 'sources.json'), JSON.stringify(before));
    await rename(draft, target).catch((error: unknown) => {
      if (!existsSync(join(target, 'gpu-backend/main.js'))) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  await setCurrent(cache, target);
  await forgetOld(cache, target);
  return target;
}

/** Says which folder is that of the sources that were there last; only `mantis` wants to know. */
async function setCurrent(cache: string, target: string): Promise<void> {
  const path = join(cache, CURRENT);
  const name = relative(cache, target);
  if ((await readFile(path, 'utf8').catch(() => '')) === name) return;
  const draft = `${path}.${randomUUID().slice(0, 8)}`;
  await writeFile(draft, name)
    .then(() => rename(draft, path))
    .catch(() => {});
}

async function buildInto(outdir: string, target: string, entries: readonly string[]): Promise<void> {
  await build({
    absWorkingDir: ROOT,
    entryPoints: [...entries],
    outbase: ROOT,
    outdir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    external: EXTERNAL,
    // Places where tests make things fail are for tests: with this and without dead code nothing is left of them.
    define: { 'process.env.MANTIS_FAULT_POINTS': 'undefined' },
    minifySyntax: true,
    // What is bundled and was written for `require` finds Node's own modules by it.
    banner: {
      js: "import { createRequire as __createRequire } from 'node:module'; const require = __createRequire(import.meta.url);",
    },
    plugins: [addresses(target, new Set(entries))],
    legalComments: 'none',
    sourcemap: false,
    keepNames: true,
    logLevel: 'silent',
  });
}

/**
 * Gives sources the addresses that they would have: scripts of threads and children are those that were built, and need no TypeScript loader any more;
 * files beside a source are where they are.
 */
function addresses(target: string, entries: ReadonlySet<string>): Plugin {
  return {
    name: 'addresses',
    setup({ onLoad }) {
      onLoad({ filter: /\.ts$/ }, ({ path }) => {
        const source = readFileSync(path, 'utf8');
        if (!source.includes('import.meta')) return { contents: source, loader: 'ts' };
        const contents = source
          .replace(SCRIPT, (whole, script: string) => {
            const entry = relative(ROOT, join(dirname(path), script));
            if (!entries.has(entry)) return whole;
            return `new URL(${JSON.stringify(pathToFileURL(join(target, entry.replace(/\.ts$/, '.js'))).href)})`;
          })
          .replaceAll("import.meta.resolve('tsx')", "'data:text/javascript,'")
          .replaceAll("import.meta.resolve('tsx/esm/api')", "'data:text/javascript,export const register = () => {}'")
          .replaceAll('import.meta.url', JSON.stringify(pathToFileURL(path).href));
        return { contents, loader: 'ts' };
      });
    },
  };
}

/** Scripts that sources start as threads or processes, from the root. */
function scriptsOf(sources: readonly string[]): string[] {
  const scripts = new Set<string>();
  for (const path of sources) {
    for (const [, script] of readFileSync(join(ROOT, path), 'utf8').matchAll(SCRIPT))
      if (script !== undefined) scripts.add(relative(ROOT, join(ROOT, dirname(path), script)));
  }
  return [...scripts];
}

/** TypeScript sources below a folder of the root, in order. */
function sourcesIn(folder: string): string[] {
  return filesIn(folder).filter((path) => path.endsWith('.ts'));
}

/** All files below a folder of the root, in order, from the root. */
export function filesIn(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .sort();
}

/**
 * Names what is made of these files, and how. Sizes and times stand for contents, as they do for make.
 * @param sources from the root
 */
export function digestOf(sources: readonly string[], how = ''): string {
  const hash = createHash('sha256').update(`${VERSION} ${process.version} ${how}`);
  for (const [path, size, mtimeMs] of statsOf(sources)) hash.update(`${path} ${size} ${mtimeMs}\n`);
  return hash.digest('hex').slice(0, 24);
}

/** Path, bytes and time of change of each source, and of what else decides what is made of them. */
function statsOf(sources: readonly string[]): [path: string, size: number, mtimeMs: number][] {
  return [...sources, 'package-lock.json', 'deploy/bundle-backend.ts'].map((path) => {
    const { size, mtimeMs } = statSync(join(ROOT, path));
    return [path, size, mtimeMs];
  });
}

/** Keeps folders of other states that were used lately, and a few more. */
export async function forgetOld(cache: string, current: string): Promise<void> {
  const names = await readdir(cache).catch(() => []);
  const others = await Promise.all(
    names.map(async (name) => {
      const path = join(cache, name);
      return {
        path,
        usedMs: await stat(path).then(
          ({ mtimeMs }) => mtimeMs,
          () => 0,
        ),
      };
    }),
  );
  const old = others
    .filter(({ path, usedMs }) => path !== current && path !== join(cache, CURRENT) && Date.now() - usedMs > KEPT_MS)
    .sort((a, b) => b.usedMs - a.usedMs)
    .slice(KEPT);
  for (const { path } of old) await rm(path, { recursive: true, force: true }).catch(() => {});
}
