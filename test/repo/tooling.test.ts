import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from './sources.ts';

const CHECKS: readonly { name: string; program: string; args: readonly string[] }[] = [
  { name: 'the compiler accepts every project', program: 'typescript/bin/tsc', args: ['-b', '--pretty', 'false'] },
  {
    name: 'Biome has nothing to say',
    program: '@biomejs/biome/bin/biome',
    args: ['check', '--error-on-warnings', '--max-diagnostics=20', '--colors=off', '.'],
  },
];

for (const { name, program, args } of CHECKS) {
  test(name, () => {
    const child = spawnSync(process.execPath, [join(root, 'node_modules', program), ...args], {
      cwd: root,
      encoding: 'utf8',
    });
    assert.equal(child.status, 0, `${child.stdout}\n${child.stderr}`.trim().slice(0, 6000));
  });
}
