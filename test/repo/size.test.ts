import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { z } from 'zod';
import { bundleWorker } from '../../deploy/bundle.ts';
import { repositoryFiles, root } from './sources.ts';

/**
 * The budget. A change that needs more raises the number here and says why in its commit; a change that deletes code
 * lowers it. Lines are counted as `wc -l` counts them.
 */
const CEILING = {
  largestFileLines: 470,
  p90Lines: 300,
  medianLines: 140,
  /** The AWS clients, cron and the dataset formats are needed at run time; the ECS client is bundled into the Worker when the product starts. */
  dependencies: 24,
  devDependencies: 10,
  edgeBundleGzipBytes: 400_000,
} as const;

const FOLDERS = ['shared', 'gpu-backend', 'edge', 'deploy', 'test'] as const;

interface Shape {
  readonly files: number;
  readonly lines: number;
  readonly median: number;
  readonly p90: number;
  readonly largest: { readonly path: string; readonly lines: number };
}

const lineCounts = repositoryFiles()
  .filter((path) => /\.(ts|mjs|tsx)$/.test(path))
  .map((path) => ({ path, lines: readFileSync(join(root, path), 'utf8').split('\n').length - 1 }));

const sources = lineCounts.filter(({ path }) => !path.startsWith('test/'));

test('the size card stays within its budget', () => {
  console.log(`# ${'folder'.padEnd(12)} files  lines  median  p90  largest`);
  for (const folder of FOLDERS) {
    const shape = measure(lineCounts.filter(({ path }) => path.startsWith(`${folder}/`)));
    const numbers = [shape.files, shape.lines, shape.median, shape.p90];
    const [files, lines, median, p90] = numbers.map(String);
    const row = `${files?.padStart(5)} ${lines?.padStart(6)} ${median?.padStart(7)} ${p90?.padStart(4)}`;
    console.log(`# ${folder.padEnd(12)} ${row}  ${shape.largest.lines} ${shape.largest.path}`);
  }
  const all = measure(sources);
  console.log(`# source without tests: ${all.files} files, ${all.lines} lines, median ${all.median}, p90 ${all.p90}`);
  assert.ok(all.largest.lines <= CEILING.largestFileLines, `${all.largest.path} has ${all.largest.lines} lines`);
  assert.ok(all.p90 <= CEILING.p90Lines, `p90 is ${all.p90} lines, the budget is ${CEILING.p90Lines}`);
  assert.ok(
    all.median <= CEILING.medianLines,
    `the median is ${all.median} lines, the budget is ${CEILING.medianLines}`,
  );
});

test('the number of direct dependencies stays within its budget', () => {
  const text: unknown = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const names = z.object({
    dependencies: z.record(z.string(), z.string()),
    devDependencies: z.record(z.string(), z.string()),
  });
  const { dependencies, devDependencies } = names.parse(text);
  const counts = [Object.keys(dependencies).length, Object.keys(devDependencies).length] as const;
  console.log(`# dependencies: ${counts[0]} at run time, ${counts[1]} for development`);
  assert.ok(
    counts[0] <= CEILING.dependencies && counts[1] <= CEILING.devDependencies,
    `${counts.join(' and ')} dependencies`,
  );
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies })) {
    assert.match(version, /^\d+\.\d+\.\d+$/, `${name} is pinned to one version, not to a range: ${version}`);
  }
});

test('the lock file names a hash for every package and no source outside the registry', () => {
  const schema = z.object({
    packages: z.record(z.string(), z.object({ resolved: z.string().optional(), integrity: z.string().optional() })),
  });
  const { packages } = schema.parse(JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')));
  for (const [name, { resolved, integrity }] of Object.entries(packages)) {
    if (name === '') continue;
    assert.match(integrity ?? '', /^sha512-/, `${name} has no hash`);
    assert.ok(
      resolved === undefined || resolved.startsWith('https://registry.npmjs.org/'),
      `${name} comes from ${resolved}`,
    );
  }
});

test('the bundled Worker stays small', async () => {
  const bytes = Buffer.from(await bundleWorker());
  const gzipBytes = gzipSync(bytes).length;
  console.log(`# edge bundle: ${bytes.length} bytes minified, ${gzipBytes} gzipped`);
  assert.ok(
    gzipBytes <= CEILING.edgeBundleGzipBytes,
    `${gzipBytes} bytes, the budget is ${CEILING.edgeBundleGzipBytes}`,
  );
});

function measure(counted: readonly { path: string; lines: number }[]): Shape {
  const sorted = [...counted].sort((a, b) => a.lines - b.lines);
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]?.lines ?? 0;
  const lines = sorted.reduce((sum, file) => sum + file.lines, 0);
  const largest = sorted.at(-1) ?? { path: '(none)', lines: 0 };
  return { files: sorted.length, lines, median: at(0.5), p90: at(0.9), largest };
}
