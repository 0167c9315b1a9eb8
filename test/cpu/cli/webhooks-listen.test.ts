/** `mantis webhooks listen` while the product is started again: against a server that is closed and opened on the same port. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { fileURLToPath } from 'node:url';

const BIN = fileURLToPath(new URL('../../../gpu-backend/cli/mantis.mjs', import.meta.url));

const eventOf = (id: string) =>
  `id: ${id}\ndata: ${JSON.stringify({ id, object: 'event', type: 'alias.promoted', created_at: 1, data: { id: 'a', sequence: 1 } })}\n\n`;

test('a stream whose server goes away is taken up again behind the last event', { timeout: 60_000 }, async (t) => {
  const asked: (string | undefined)[] = [];
  async function serve(port: number, id: string): Promise<Server> {
    const server = createServer((request, response) => {
      asked.push(request.headers['last-event-id']?.toString());
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write(eventOf(id));
    });
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    return server;
  }
  const close = (server: Server) =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  const first = await serve(0, 'evt_1');
  const { port } = first.address() as AddressInfo;
  const child = spawn(process.execPath, [BIN, 'webhooks', 'listen'], {
    env: { PATH: process.env.PATH, MANTIS_BASE_URL: `http://127.0.0.1:${port}`, MANTIS_API_KEY: 'k' },
  });
  t.after(() => child.kill('SIGKILL'));
  let [out, err] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const said = async (what: () => boolean) => {
    while (!what()) {
      assert.equal(child.exitCode, null, `it has ended: ${err}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  await said(() => out.includes('evt_1'));
  await close(first);
  await said(() => err.includes('connection lost'));
  const second = await serve(port, 'evt_2');
  await said(() => out.includes('evt_2') && err.includes('connected again'));
  assert.deepEqual(asked, [undefined, 'evt_1']);
  assert.equal(err.match(/connection lost/g)?.length, 1);
  child.kill('SIGINT');
  const code = await new Promise((resolve) => child.once('close', resolve));
  assert.equal(code, 0);
  assert.match(err, /2 events\n$/);
  await close(second);
});
