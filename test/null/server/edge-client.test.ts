/** Downloads from the edge: whole or not at all, also where two models that are loaded at once share a file. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, utimes } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { EdgeClient } from '../../../gpu-backend/server/edge-client.ts';
import { OverlayStore } from '../../../gpu-backend/server/overlay-store.ts';

const FILES = new Map([
  ['adapter_config.json', Buffer.from('{"r":8}')],
  ['adapter_model.safetensors', Buffer.alloc(300_000, 7)],
]);
const sha256Of = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

let server: Server;
let edge: EdgeClient;
let dir: string;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'mantis-edge-client-'));
  server = createServer((request, response) => {
    const bytes = FILES.get(request.url!.split('/').at(-1)!)!;
    // In two pieces, so that downloads that begin together are under way together.
    response.writeHead(200, { 'content-length': bytes.byteLength });
    response.write(bytes.subarray(0, 3));
    setTimeout(() => response.end(bytes.subarray(3)), 30);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  edge = new EdgeClient({ url: `http://127.0.0.1:${port}`, secret: 'a secret of some length' });
});

after(async () => {
  server.close();
  await rm(dir, { recursive: true });
});

test('one file that is downloaded twice at once is there once', async () => {
  const bytes = FILES.get('adapter_model.safetensors')!;
  const file = join(dir, 'blob');
  const expected = { bytes: bytes.byteLength, sha256: sha256Of(bytes) };
  await Promise.all([1, 2, 3].map(() => edge.download('/adapter_model.safetensors', file, expected)));
  assert.deepEqual(await readFile(file), bytes);
  assert.deepEqual(await readdir(dir), ['blob']);
});

test('a download that is not what was announced leaves nothing behind', async () => {
  const file = join(dir, 'other', 'blob');
  const expected = { bytes: 7, sha256: '0'.repeat(64) };
  await assert.rejects(edge.download('/adapter_config.json', file, expected), /expected 7 bytes with SHA-256 0{64}/);
  assert.deepEqual(await readdir(join(dir, 'other')), []);
});

test('models that share files are fetched at the same time', async () => {
  const store = new OverlayStore(edge, join(dir, 'store'));
  const file = (name: string, stored: string) => ({
    name,
    url: `/${stored}`,
    bytes: FILES.get(stored)!.byteLength,
    sha256: sha256Of(FILES.get(stored)!),
  });
  const overlays = await Promise.all(
    ['one', 'two', 'one'].map((id) =>
      store.fetch({
        model: id,
        adapter: {
          id,
          base: `base of ${id}`,
          kind: 'lora',
          files: [
            file('adapter_config.json', 'adapter_config.json'),
            file('adapter_model.safetensors', 'adapter_model.safetensors'),
          ],
        },
      }),
    ),
  );
  assert.equal(new Set(overlays.map((overlay) => overlay.dir)).size, 2);
  for (const overlay of overlays)
    assert.deepEqual(
      (await readdir(overlay.dir)).sort(),
      [...FILES.keys()],
      'every file of the model is in its folder',
    );
});

test('checkpoints that were used longest ago make room, with the files that are theirs alone', async () => {
  const kept = join(dir, 'kept');
  const config = FILES.get('adapter_config.json')!;
  const store = new OverlayStore(edge, kept, undefined, { bytes: 2 * 300_100, atLeast: 1 });
  const fetch = async (step: number) => {
    const weights = `step${step}.bin`;
    FILES.set(weights, Buffer.alloc(300_000, step));
    const stored = { 'adapter_config.json': config, 'adapter_model.safetensors': FILES.get(weights)! };
    const files = Object.entries(stored).map(([name, bytes]) => ({
      name,
      url: '',
      bytes: bytes.byteLength,
      sha256: sha256Of(bytes),
    }));
    // The server goes by the last name of a path.
    FILES.set('adapter_model.safetensors', stored['adapter_model.safetensors']);
    const overlay = await store.fetch({ model: 'm', adapter: { id: 'm', base: 'nano', kind: 'lora', files } });
    await store.settled();
    return overlay;
  };
  const [first, second] = [await fetch(1), await fetch(2)];
  const hourAgo = Date.now() / 1000 - 3_600;
  await utimes(second.dir, hourAgo, hourAgo);
  await utimes(first.dir, hourAgo - 60, hourAgo - 60);
  await fetch(1); // used again
  await until(async () => (await stat(first.dir)).mtimeMs > Date.now() - 60_000);
  const third = await fetch(3);
  assert.deepEqual((await readdir(join(kept, 'overlays'))).sort(), [first, third].map(({ key }) => key).sort());
  assert.equal((await readdir(join(kept, 'blobs'))).length, 3, 'two of weights, one of the configuration');
  assert.deepEqual(await readFile(join(third.dir, 'adapter_model.safetensors')), Buffer.alloc(300_000, 3));
});

async function until(isSo: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 200 && !(await isSo()); i++) await new Promise((resolve) => setTimeout(resolve, 5));
}
