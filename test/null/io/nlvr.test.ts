import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readNlvrBoxes, readNlvrExamples } from '../../../gpu-backend/io/nlvr.ts';

async function folder(t: TestContext, files: Record<string, string | Uint8Array>): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'nlvr-'));
  t.after(() => rm(path, { recursive: true }));
  await Promise.all(Object.entries(files).map(([name, content]) => writeFile(join(path, name), content)));
  return path;
}

test('boxes are cut out of the bin by the index', async (t) => {
  const index = new Uint8Array(new Uint32Array([0, 3, 3, 2]).buffer);
  const boxes = await readNlvrBoxes(
    await folder(t, { 'dev.box.bin': new Uint8Array([1, 2, 3, 4, 5]), 'dev.box.idx': index }),
    'dev',
  );
  assert.equal(boxes.count, 2);
  assert.deepEqual([...boxes.png(1)], [4, 5]);
  assert.throws(() => boxes.png(2), /boxes 0…1/);
});

test('an index that reaches past the bin is refused', async (t) => {
  const index = new Uint8Array(new Uint32Array([0, 9]).buffer);
  const path = await folder(t, { 'dev.box.bin': new Uint8Array(5), 'dev.box.idx': index });
  await assert.rejects(readNlvrBoxes(path, 'dev'), /box 0 is bytes 0…9, but dev\.box\.bin has 5/);
});

test('rows keep a missing label missing; a broken row is named by line and field', async (t) => {
  const row = { id: 'i', group: 'g', statement: 's', boxes: [[0, 1, 2]] };
  const path = await folder(t, {
    'good.jsonl': `${JSON.stringify(row)}\n${JSON.stringify({ ...row, label: false, labelSource: 'gold' })}\n`,
    'bad.jsonl': `${JSON.stringify(row)}\n${JSON.stringify({ ...row, label: 'yes' })}\n`,
  });
  const [unlabelled, labelled] = await readNlvrExamples(path, 'good');
  assert.equal('label' in (unlabelled ?? {}), false);
  assert.equal(labelled?.label, false);
  await assert.rejects(
    readNlvrExamples(path, 'bad'),
    /bad\.jsonl:2: `label` must be a boolean where present, got "yes"/,
  );
  await assert.rejects(readNlvrExamples(path, 'none'), /expected the NLVR folder format/);
});
