import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { describeError, firstLines } from '../../run/report.ts';
import { findStrays, killStrays, RUN_MARK } from '../../run/strays.ts';
import { groupsOf, select, TIERS, testFiles } from '../../run/tiers.ts';

const testRoot = fileURLToPath(new URL('../..', import.meta.url));
const namesOf = (words: readonly string[]): string[] => select(testRoot, words).map(({ tier }) => tier.name);
const filesOf = (words: readonly string[]): string[] => select(testRoot, words).flatMap(({ files }) => files);

test('no words select every tier in its order', () => {
  assert.deepEqual(
    namesOf([]),
    TIERS.map(({ name }) => name),
  );
});

const SELECTIONS: readonly { words: string[]; tiers: string[]; every: RegExp }[] = [
  { words: ['null'], tiers: ['null'], every: /\/test\/null\// },
  { words: ['wire', 'null'], tiers: ['null', 'wire'], every: /\/test\/(null|wire)\// },
  { words: ['null/run/'], tiers: ['null'], every: /\/test\/null\/run\// },
  { words: ['test/null/run/runner.test.ts'], tiers: ['null'], every: /runner\.test\.ts$/ },
];
for (const { words, tiers, every } of SELECTIONS) {
  test(`'${words.join(' ')}' selects ${tiers.join(' and ')}`, () => {
    assert.deepEqual(namesOf(words), tiers);
    assert.ok(filesOf(words).length > 0);
    for (const file of filesOf(words)) assert.match(file, every);
  });
}

test('a word that matches nothing is an error and not a pass', () => {
  assert.throws(
    () => select(testRoot, ['nothing-of-this-name']),
    /no tier and no test file matches 'nothing-of-this-name'; tiers are repo, null/,
  );
});

test('every file of a tier runs once, the longest first, those that want to be alone behind the others', () => {
  for (const tier of TIERS) {
    const files = testFiles(testRoot, tier.name);
    const groups = groupsOf(testRoot, tier, files);
    assert.deepEqual(groups.flatMap((group) => group.files).sort(), files);
    for (const name of [...(tier.first ?? []), ...(tier.alone ?? [])])
      assert.ok(
        files.some((file) => file.startsWith(`${testRoot}${name}`)),
        `${tier.name} has no ${name}`,
      );
  }
  const tier = { name: 'x', about: '', concurrency: 2, fileTimeoutMs: 1, first: ['c', 'b'], alone: ['a'] };
  const files = ['a.test.ts', 'b.test.ts', 'c.test.ts', 'd.test.ts'].map((name) => testRoot + name);
  const show = groupsOf(testRoot, tier, files).map((group) => [
    group.concurrency,
    group.files.map((file) => file.slice(testRoot.length, testRoot.length + 1)).join(''),
  ]);
  assert.deepEqual(show, [
    [2, 'cbd'],
    [1, 'a'],
  ]);
});

const noProc = process.platform === 'linux' ? false : 'strays are found through /proc, which only Linux has';
test('a process that detached itself is found by the mark of its run, and ended', { skip: noProc }, async () => {
  const mark = randomUUID();
  const env = { ...process.env, [RUN_MARK]: mark };
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], {
    detached: true,
    stdio: 'ignore',
    env,
  });
  await once(child, 'spawn');
  const [stray, ...more] = findStrays(mark, new Set());
  assert.equal(stray?.pid, child.pid);
  assert.equal(more.length, 0);
  assert.deepEqual(findStrays(mark, new Set([child.pid ?? 0])), []);
  killStrays([{ pid: child.pid ?? 0, command: '' }]);
  const [, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  assert.equal(signal, 'SIGKILL');
});

test('an error is told with its causes and without the runner', () => {
  const told = describeError(new Error('outer', { cause: new Error('inner') }));
  assert.match(told, /^Error: outer[\s\S]*\[cause\] Error: inner/);
  assert.doesNotMatch(told, /node:internal/);
  assert.equal(firstLines('a\nb\nc', 2), 'a\nb\n… and 1 more lines');
});
