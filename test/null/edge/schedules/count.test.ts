/** How many examples a file holds, whatever its form and however its bytes come in pieces. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parquetWriteBuffer } from 'hyparquet-writer';
import { countExamples, countJson } from '../../../../edge/schedules/count.ts';
import { makeWorld, randomOf, TENANT } from './world.ts';

/** The text in pieces of random lengths, in the middle of characters too. */
function inPieces(text: string, random: () => number): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) {
        controller.close();
        return;
      }
      const end = Math.min(bytes.length, at + 1 + Math.floor(random() * 7));
      controller.enqueue(bytes.slice(at, end));
      at = end;
    },
  });
}

const CASES: readonly (readonly [what: string, text: string, count: number])[] = [
  ['nothing', '', 0],
  ['white space', ' \n\t\r\n', 0],
  ['lines', '{"a":1}\n{"a":2}\n', 2],
  ['no newline at the end', '{"a":1}\n{"a":2}', 2],
  ['empty lines, spaces, CRLF', '\n{"a":1}\r\n  \r\n\r\n{"a":2}\r\n \n', 2],
  ['a byte order mark', '\ufeff{"a":1}\n{"b":2}\n', 2],
  ['lines that hold arrays', '{"a":[1,2]}\n{"a":[]}\n', 2],
  ['an empty array', ' [ ] ', 0],
  ['an array', '[{"a":1},{"a":2}, {"a":3}]', 3],
  ['an array over lines, with a mark', '\ufeff[\n {"a":[1,2,[3]]},\n {"b":{"c":"],["}}\n]\n', 2],
  ['strings that look like structure', '["a,b", "\\"],", "\\\\", "é,日本"]', 4],
];

test('lines that are not empty, or elements of an array', async () => {
  for (const [what, text, count] of CASES)
    for (let seed = 1; seed <= 20; seed++)
      assert.equal(await countJson(inPieces(text, randomOf(seed))), count, `${what}, seed ${seed}`);
});

test('rows of a Parquet file by its footer; each content is read once; mixtures take their share', async () => {
  const world = await makeWorld();
  const bytes = new Uint8Array(
    parquetWriteBuffer({ columnData: [{ name: 'id', data: Array.from({ length: 321 }, (_, i) => `row ${i}`) }] }),
  );
  await world.write(7, 'lines', 'file-lines');
  await world.blobs.put('files/file-rows', bytes);
  world.sqlite.rows(
    `INSERT INTO files (id, seq, tenant, filename, purpose, mime, bytes, sha256, created_at, object_key)
     VALUES ('file-rows', 1000, ?, 'rows.parquet', 'fine-tune', 'x', ?, 'digest-of-rows', 0, 'files/file-rows')`,
    TENANT,
    bytes.length,
  );
  const lines = world.sqlite.rows<{ sha256: string; bytes: number }>(`SELECT * FROM files WHERE id = 'file-lines'`)[0];
  assert.ok(lines !== undefined);
  const spec = {
    balancing: false,
    files: [
      { file_id: 'file-lines', filename: 'a', file: { id: 'file-lines', bytes: lines.bytes, sha256: lines.sha256 } },
      { file_id: 'file-rows', filename: 'b', file: { id: 'file-rows', bytes: bytes.length, sha256: 'digest-of-rows' } },
      {
        file_id: 'file-rows',
        filename: 'b',
        max_size: 100,
        file: { id: 'file-rows', bytes: bytes.length, sha256: 'digest-of-rows' },
      },
    ],
  };
  assert.equal(await countExamples(world.env, TENANT, spec), 7 + 321 + 100);
  let reads = 0;
  world.blobs.around = async (_call, run) => {
    reads++;
    return run();
  };
  assert.equal(await countExamples(world.env, TENANT, spec), 428);
  assert.equal(reads, 0, 'the second time nothing is read');
});
