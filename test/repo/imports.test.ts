import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Import, importsOf, refuse, repositoryFiles, root } from './sources.ts';

/** Levels of the import law, lowest first: a file imports from its own folder or from a lower level. */
const LEVELS: readonly (readonly string[])[] = [
  ['shared/contract'],
  ['shared/wire'],
  ['shared'],
  ['shared/client'],
  ['gpu-backend/graph'],
  ['gpu-backend/runtime', 'gpu-backend/io', 'gpu-backend/text', 'gpu-backend/vision'],
  ['gpu-backend/models'],
  ['gpu-backend/engine', 'gpu-backend/train', 'gpu-backend/eval'],
  ['gpu-backend/server', 'gpu-backend/cli'],
  ['gpu-backend'],
  ['edge'],
  ['deploy'],
  ['test'],
];

/** Native packages and the only places that may name them. Everything else reaches them through those files. */
const CONFINED: Readonly<Record<string, readonly string[]>> = {
  'onnxruntime-node': ['gpu-backend/runtime/'],
  koffi: ['gpu-backend/runtime/'],
  sharp: ['gpu-backend/vision/', 'gpu-backend/train/nano/', 'test/'],
  miniflare: ['deploy/', 'test/'],
  wrangler: ['deploy/', 'test/'],
  '@aws-sdk/client-ecs': ['edge/fleet/autoscale/'],
  esbuild: ['deploy/', 'test/'],
  openai: ['test/'],
  'playwright-core': ['test/'],
  'fast-check': ['test/'],
  typescript: ['test/'],
};

const files = repositoryFiles().filter((path) => path.endsWith('.ts'));
const imports = files.flatMap(importsOf);
const inside = imports.filter((edge) => existsSync(join(root, edge.to)) && edge.to.includes('/'));

const show = (edge: Import, why: string): string => `${edge.from}:${edge.line} → ${edge.to}  (${why})`;

/** The folder of the law that a file belongs to, and its level. */
function placeOf(path: string): { folder: string; level: number } {
  const parts = path.split('/');
  for (const depth of [2, 1]) {
    const folder = parts.slice(0, depth).join('/');
    const level = LEVELS.findIndex((names) => names.includes(folder));
    if (level >= 0 && parts.length > depth) return { folder, level };
  }
  throw new Error(`${path} is in no folder of the import law: add its folder to a level, or move the file`);
}

function offence(edge: Import): string | undefined {
  const from = placeOf(edge.from);
  const to = placeOf(edge.to);
  if (to.folder === 'test' && from.folder !== 'test') return 'nobody imports test';
  if (from.folder === to.folder) return undefined;
  if (from.folder === 'edge') return to.folder.startsWith('shared') ? undefined : 'edge sees only shared';
  if (from.folder.startsWith('gpu-backend') && to.folder === 'edge') return 'gpu-backend never sees edge';
  // How one starts the program is data for those who start it: a URL to an entry file is not a dependency on its code.
  if (edge.kind === 'url' && edge.to === 'gpu-backend/main.ts') return undefined;
  if (to.level < from.level) return undefined;
  return `${from.folder} is level ${from.level}, ${to.folder} is level ${to.level}`;
}

test('a file imports from its own folder or from a lower level', () => {
  const offences = inside.flatMap((edge) => {
    const why = offence(edge);
    return why === undefined ? [] : [show(edge, why)];
  });
  refuse(offences);
});

test('every relative import names an existing file with its extension', () => {
  const broken = imports.filter(
    (edge) => edge.to.includes('/') && !edge.to.startsWith('@') && !edge.to.startsWith('node:'),
  );
  const missing = broken.filter((edge) => !existsSync(join(root, edge.to)));
  refuse(missing.map((edge) => show(edge, 'no such file')));
});

test('native and development packages stay where they belong', () => {
  const offences = imports.flatMap((edge) => {
    const places = CONFINED[edge.to];
    if (places === undefined || places.some((place) => edge.from === place || edge.from.startsWith(place))) return [];
    return [show(edge, `only ${places.join(', ')} may name ${edge.to}`)];
  });
  refuse(offences);
});

test('the Worker imports nothing that only Node has', () => {
  const offences = imports.filter((edge) => /^(edge|shared)\//.test(edge.from) && edge.to.startsWith('node:'));
  refuse(offences.map((edge) => show(edge, 'edge and shared run in workerd and in browsers')));
});

test('folders have no import cycles between files at run time', () => {
  refuse(findCycles(inside.filter((edge) => edge.atRunTime && edge.kind === 'static')));
});

test('the serving path never loads the differentiation walk', () => {
  assert.ok(existsSync(join(root, 'gpu-backend/main.ts')), 'gpu-backend/main.ts starts the serving path');
  // Trainer and validator are other processes: the URL that starts one is where the serving process ends.
  const stays = (edge: Import): boolean =>
    edge.atRunTime && !(edge.kind === 'url' && /(job|validate)-child/.test(edge.to));
  const path = findPath('gpu-backend/main.ts', 'gpu-backend/graph/grad.ts', inside.filter(stays));
  assert.equal(path?.join(' → '), undefined);
});

/** Shortest chain of imports from one file to another. */
function findPath(start: string, goal: string, edges: readonly Import[]): string[] | undefined {
  const cameFrom = new Map<string, string | undefined>([[start, undefined]]);
  const queue = [start];
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    if (next === goal) {
      const chain: string[] = [];
      for (let at: string | undefined = goal; at !== undefined; at = cameFrom.get(at)) chain.unshift(at);
      return chain;
    }
    for (const edge of edges) {
      if (edge.from !== next || cameFrom.has(edge.to)) continue;
      cameFrom.set(edge.to, next);
      queue.push(edge.to);
    }
  }
  return undefined;
}

/** One printed chain for every cycle that a depth-first walk closes. */
function findCycles(edges: readonly Import[]): string[] {
  const next = new Map<string, string[]>();
  for (const edge of edges) next.set(edge.from, [...(next.get(edge.from) ?? []), edge.to]);
  const done = new Set<string>();
  const cycles: string[] = [];
  const walk = (file: string, chain: readonly string[]): void => {
    const seenAt = chain.indexOf(file);
    if (seenAt >= 0) {
      cycles.push([...chain.slice(seenAt), file].join(' → '));
      return;
    }
    if (done.has(file)) return;
    for (const to of next.get(file) ?? []) walk(to, [...chain, file]);
    done.add(file);
  };
  for (const file of next.keys()) walk(file, []);
  return cycles;
}
