/** What a README says is what the repository has: its code is that of the executed examples, its commands exist, its numbers are measured. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LIMITS } from '../../shared/contract/limits.ts';
import { type InferenceResults, inferenceTable } from '../bench/inference/readme.ts';
import { type TrainResults, withTrainTable } from '../bench/train-table.ts';
import { refuse, root } from './sources.ts';

const readme = readFileSync(join(root, 'README.md'), 'utf8');

test('code that is shown is a file that the tests run', () => {
  const shown = [...readme.matchAll(/<!-- file: (\S+) -->\s*```\w+\n([\s\S]*?)```/g)];
  assert.ok(shown.length >= 2, 'the README shows examples');
  for (const [, path = '', code] of shown) {
    assert.equal(code, readFileSync(join(root, path), 'utf8'), `${path} differs from what the README shows of it`);
  }
});

test('npm scripts and paths in code blocks exist', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  const offences: string[] = [];
  for (const [block] of readme.matchAll(/```bash[\s\S]*?```/g)) {
    for (const [, script = ''] of block.matchAll(/\bnpm (?:run )?([\w:-]+)/g)) {
      if (script !== 'ci' && scripts[script] === undefined) offences.push(`npm ${script}`);
    }
  }
  for (const [, path = ''] of readme.matchAll(
    /(?<![\w./-])((?:edge|gpu-backend|shared|deploy|test)\/[\w./-]*[\w/])/g,
  )) {
    if (!existsSync(join(root, path))) offences.push(path);
  }
  refuse(offences);
});

test('limits that are named are the limits that hold', () => {
  const { images, request, files, dataset } = LIMITS;
  const mib = (bytes: number): string => `${bytes / 2 ** 20} MiB`;
  const rows: readonly [string, string][] = [
    ['JSON body', mib(request.maxJsonBytes)],
    ['one picture', mib(images.maxBytes)],
    ['pixels of one picture', `${images.maxPixels / 1e6} million`],
    ['longest side', `${images.maxSide} px`],
    ['uploaded file', mib(files.maxBytes)],
    ['lines of a training file', String(dataset.maxLines)],
  ];
  refuse(
    rows
      .filter(([name, value]) => !readme.includes(`| ${name} `) || !rowOf(name).includes(value))
      .map((row) => row.join(': ')),
  );
});

test('accuracies of the bundled model are those of its card', () => {
  const section =
    /^## The bundled model$([\s\S]*?)^## /m.exec(readme)?.[1] ?? assert.fail('the README has the section');
  const card = readFileSync(join(root, 'gpu-backend/models/nano/README.md'), 'utf8');
  const shown = section.match(/\d+\.\d %/g) ?? [];
  assert.ok(shown.length >= 4, 'the README states accuracies');
  // Tables with intervals leave the sign out.
  const inTable = (accuracy: string): string => ` ${accuracy.replace(' %', '')} (`;
  refuse(shown.filter((accuracy) => !card.includes(accuracy) && !card.includes(inTable(accuracy))));
});

test('inference speeds are those of the benchmark kept with it', () => {
  const kept = JSON.parse(readFileSync(join(root, 'test/bench/results/inference.json'), 'utf8')) as InferenceResults;
  const section = /^### Inference speed$([\s\S]*?)^##/m.exec(readme)?.[1] ?? assert.fail('the README has the section');
  // The formatter pads the cells.
  const cells = (table: string): string[][] =>
    table
      .split('\n')
      .filter((line) => line.startsWith('|') && !line.startsWith('| --'))
      .map((line) => line.split('|').map((cell) => cell.trim()));
  assert.deepEqual(cells(section), cells(inferenceTable(kept)));
});

test('training speeds are those of the benchmark kept with it', () => {
  const kept = JSON.parse(readFileSync(join(root, 'test/bench/results/train-throughput.json'), 'utf8')) as TrainResults;
  // The formatter pads the table's columns; what they say is compared.
  const plain = (text: string) => text.replace(/ *\| */g, '|').replace(/-{3,}/g, '---');
  assert.equal(
    plain(withTrainTable(readme, kept)),
    plain(readme),
    'run the benchmark with --save, or put its table here',
  );
});

function rowOf(name: string): string {
  return readme.split('\n').find((line) => line.startsWith(`| ${name} `)) ?? '';
}
