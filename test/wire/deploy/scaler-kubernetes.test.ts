import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { callCluster, isInPod, podDefaults } from '../../../deploy/scaler-kubernetes.ts';

const HAS_OPENSSL = spawnSync('openssl', ['version']).status === 0;

describe('the way from a pod to its API server', { skip: HAS_OPENSSL ? false : 'openssl is not installed' }, () => {
  let account = '';
  let server: Server;
  let url = '';
  const seen: (string | undefined)[] = [];
  before(async () => {
    account = await mkdtemp(join(tmpdir(), 'mantis-account-'));
    const [key, cert] = [join(account, 'key.pem'), join(account, 'ca.crt')];
    const names = ['-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1'];
    const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
    const made = spawnSync('openssl', ['req', ...kind, '-keyout', key, '-out', cert, ...names], { encoding: 'utf8' });
    assert.equal(made.status, 0, made.stderr);
    await writeFile(join(account, 'token'), 'first\n');
    await writeFile(join(account, 'namespace'), 'vision\n');
    server = createServer({ key: await readFile(key), cert: await readFile(cert) }, (request, response) => {
      seen.push(request.headers.authorization);
      if (request.url === '/silent') return;
      response.writeHead(request.method === 'PATCH' ? 409 : 200).end(`${request.method} ${request.url}`);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(async () => {
    server?.closeAllConnections();
    server?.close();
    await rm(account, { recursive: true, force: true });
  });

  it('trusts the cluster, and reads the token anew for each call', async () => {
    const call = { method: 'GET', url: `${url}/apis`, headers: { accept: 'application/json' }, body: '' };
    assert.deepEqual(await callCluster(call, 5_000, account), { status: 200, body: 'GET /apis' });
    await writeFile(join(account, 'token'), 'second\n');
    const patch = { ...call, method: 'PATCH', body: '{}' };
    assert.deepEqual(await callCluster(patch, 5_000, account), { status: 409, body: 'PATCH /apis' });
    assert.deepEqual(seen, ['Bearer first', 'Bearer second']);
  });

  it('gives up on one that is silent', async () => {
    const call = { method: 'GET', url: `${url}/silent`, headers: {}, body: '' };
    await assert.rejects(callCluster(call, 200, account), /no answer within 200 ms/);
  });

  it('knows the pod that it is in', async () => {
    assert.ok(isInPod(account));
    assert.ok(!isInPod(join(account, 'nowhere')));
    const env = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT_HTTPS: '6443' };
    assert.deepEqual(await podDefaults(env, account), {
      KUBERNETES_API: 'https://[fd00::1]:6443',
      KUBERNETES_NAMESPACE: 'vision',
    });
    assert.deepEqual(await podDefaults({}, join(account, 'nowhere')), {});
  });
});
