import { existsSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';

/** One rung of the test ladder: cheap and certain first, so that a broken type stops you before a browser starts. */
export interface Tier {
  readonly name: string;
  readonly about: string;
  /** Test files that run side by side. */
  readonly concurrency: number;
  /** Files (below `test/`) that are started first, because they take longest: none of them is left over at the end, with a core idle beside it. */
  readonly first?: readonly string[];
  /** Files that run behind the others, one at a time: they measure moments that a neighbour would lengthen. */
  readonly alone?: readonly string[];
  /** A file that is still running after this long is killed and counted as a failure. */
  readonly fileTimeoutMs: number;
  /** Why this machine cannot run the tier, or undefined when it can. */
  readonly cannotRun?: () => string | undefined;
}

const MINUTE_MS = 60_000;

/** Places where Debian, Ubuntu, Fedora and macOS put a Chromium that playwright-core can drive. */
const CHROMIUM_PATHS = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

/** The browser that the browser tier drives: `CHROMIUM_PATH`, or the first usual place that exists. */
export function findChromium(): string | undefined {
  const named = process.env.CHROMIUM_PATH;
  return [...(named === undefined ? [] : [named]), ...CHROMIUM_PATHS].find((path) => existsSync(path));
}

export const TIERS: readonly Tier[] = [
  {
    name: 'repo',
    about: 'types, lint, import law, size card, README',
    concurrency: 2,
    first: ['repo/tooling'],
    fileTimeoutMs: 4 * MINUTE_MS,
  },
  {
    name: 'null',
    about: 'pure logic, no native code',
    concurrency: 2,
    first: ['null/simulation/'],
    fileTimeoutMs: 4 * MINUTE_MS,
  },
  {
    name: 'cpu',
    about: 'ONNX Runtime and sharp on the processor',
    concurrency: 2,
    first: [
      'cpu/engine/near-collisions',
      'cpu/train/finetune',
      'cpu/train/validate-data',
      'cpu/train/kills',
      'cpu/vision/pool',
    ],
    fileTimeoutMs: 4 * MINUTE_MS,
  },
  {
    name: 'wire',
    about: 'the real Worker runtime and a real backend',
    // More files than cores: most of a file's time it waits, for leases, pauses and time limits that are real ones.
    concurrency: 3,
    first: ['wire/e2e/resume', 'wire/server/jobs', 'wire/edge/jobs', 'wire/e2e/scaling', 'wire/e2e/schedule'],
    alone: ['wire/edge/hang-up', 'wire/edge/ssrf'],
    fileTimeoutMs: 6 * MINUTE_MS,
  },
  {
    name: 'browser',
    about: 'pages in Chromium',
    concurrency: 1,
    fileTimeoutMs: 3 * MINUTE_MS,
    cannotRun: () =>
      findChromium() === undefined
        ? 'no Chromium on this machine; install one (Debian: apt-get install chromium) or set CHROMIUM_PATH'
        : undefined,
  },
  {
    name: 'gpu',
    about: 'the same checks on an accelerator',
    concurrency: 1,
    // Its tests say for each device why it is skipped.
    fileTimeoutMs: 5 * MINUTE_MS,
  },
];

/** Every `*.test.ts` below `test/<tier>`, sorted, as absolute paths. */
export function testFiles(testRoot: string, tier: string): string[] {
  const folder = join(testRoot, tier);
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(folder, name))
    .sort();
}

/** What runs side by side, one such group behind the other. */
export interface Group {
  readonly files: readonly string[];
  readonly concurrency: number;
}

/** @param files of the tier, as absolute paths */
export function groupsOf(testRoot: string, tier: Tier, files: readonly string[]): Group[] {
  const isIn = (file: string, names: readonly string[] = []): boolean =>
    names.some((name) => relative(testRoot, file).startsWith(name));
  const alone = files.filter((file) => isIn(file, tier.alone));
  const together = files.filter((file) => !isIn(file, tier.alone));
  const first = (tier.first ?? []).flatMap((name) => together.filter((file) => isIn(file, [name])));
  const groups = [
    { files: [...new Set([...first, ...together])], concurrency: tier.concurrency },
    { files: alone, concurrency: 1 },
  ];
  return groups.filter((group) => group.files.length > 0);
}

export interface Selection {
  readonly tier: Tier;
  readonly files: readonly string[];
}

/**
 * Turns command-line words into tiers and files. A word is a tier name, or any part of a test file's path below
 * `test/`; no words means everything. A word that matches nothing is an error, because silence would look like a pass.
 */
export function select(testRoot: string, words: readonly string[]): Selection[] {
  const all = TIERS.map((tier) => ({ tier, files: testFiles(testRoot, tier.name) }));
  if (words.length === 0) return all;
  const chosen = all.map(({ tier, files }) => ({
    tier,
    files: files.filter((file) => words.some((word) => word === tier.name || isPathPart(testRoot, file, word))),
  }));
  for (const word of words) {
    const known = all.some(
      ({ tier, files }) => tier.name === word || files.some((file) => isPathPart(testRoot, file, word)),
    );
    if (!known) {
      const names = TIERS.map((tier) => tier.name).join(', ');
      throw new Error(`no tier and no test file matches '${word}'; tiers are ${names}, files are parts of paths`);
    }
  }
  return chosen.filter(({ tier, files }) => files.length > 0 || words.includes(tier.name));
}

function isPathPart(testRoot: string, file: string, word: string): boolean {
  const path = relative(testRoot, file);
  const part = word.replace(/^\.?\/?test\//, '');
  return TIERS.every((tier) => tier.name !== word) && path.includes(part);
}
