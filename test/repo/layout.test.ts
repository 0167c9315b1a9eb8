import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { refuse, repositoryFiles, root } from './sources.ts';

const FOLDERS = ['deploy', 'edge', 'gpu-backend', 'shared', 'test'];
const FILES = ['CHANGELOG.md', 'LICENSE', 'README.md', 'package-lock.json', 'package.json', 'tsconfig.json'];

const files = repositoryFiles();

test('the top level is the given one: five folders, six files and dot-files', () => {
  const top = [...new Set(files.map((path) => path.split('/')[0] ?? path))].filter((name) => !name.startsWith('.'));
  assert.deepEqual(top.sort(), [...FOLDERS, ...FILES].sort());
});

test('every top-level folder has a README that ends with its decisions', () => {
  const missing = FOLDERS.flatMap((folder) => {
    const path = `${folder}/README.md`;
    if (!files.includes(path)) return [`${path} is missing`];
    const headings = readFileSync(join(root, path), 'utf8').match(/^## .*$/gm) ?? [];
    return headings.at(-1) === '## Decisions'
      ? []
      : [`${path} ends with '${headings.at(-1)}', not with '## Decisions'`];
  });
  refuse(missing);
});

test('a map in a README names only files that exist', () => {
  const broken: string[] = [];
  for (const readme of [...FOLDERS.map((folder) => `${folder}/README.md`), 'README.md'].filter((path) =>
    files.includes(path),
  )) {
    const folder = readme.includes('/') ? readme.slice(0, readme.indexOf('/')) : '';
    for (const [, link] of readFileSync(join(root, readme), 'utf8').matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)) {
      const path = join(folder, link ?? '');
      if (!files.some((file) => file === path || file.startsWith(`${path.replace(/\/$/, '')}/`)))
        broken.push(`${readme} → ${link}`);
    }
  }
  refuse(broken);
});

test('committed files are small: weights within 25 MB, everything else within 1 MB', () => {
  const limitOf = (path: string): number => (path.startsWith('gpu-backend/models/') ? 25_000_000 : 1_000_000);
  const large = files.flatMap((path) => {
    const { size } = statSync(join(root, path));
    return size > limitOf(path) ? [`${path} has ${size} bytes`] : [];
  });
  refuse(large);
  const modelBytes = files
    .filter((path) => path.startsWith('gpu-backend/models/nano/'))
    .reduce((sum, path) => sum + statSync(join(root, path)).size, 0);
  assert.ok(modelBytes <= 25_000_000, `the bundled model has ${modelBytes} bytes`);
});
