/** The way from a Worker that runs in a pod to the cluster's API server: workerd reads no files, and the account's token in one is renewed every hour. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';

/** Where Kubernetes mounts the service account of a pod. */
const ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';

export type ApiCall = { method: string; url: string; headers: Record<string, string>; body: string };
export type ApiAnswer = { status: number; body: string };

/** Whether this process runs in a pod with a service account. */
export function isInPod(account = ACCOUNT): boolean {
  return existsSync(join(account, 'token'));
}

/** What a pod knows of its cluster. @returns variables of the Worker that are not set otherwise */
export async function podDefaults(env: NodeJS.ProcessEnv, account = ACCOUNT): Promise<Record<string, string>> {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT_HTTPS: port = '443' } = env;
  const namespace = await readFile(join(account, 'namespace'), 'utf8').catch(() => '');
  return {
    ...(host === undefined ? {} : { KUBERNETES_API: `https://${host.includes(':') ? `[${host}]` : host}:${port}` }),
    ...(namespace === '' ? {} : { KUBERNETES_NAMESPACE: namespace.trim() }),
  };
}

/** Makes the call with the account's token as it is now, trusting the cluster's own authority. @throws Error where no answer came */
export async function callCluster(call: ApiCall, timeoutMs: number, account = ACCOUNT): Promise<ApiAnswer> {
  const [token, ca] = await Promise.all([
    readFile(join(account, 'token'), 'utf8'),
    readFile(join(account, 'ca.crt'), 'utf8'),
  ]);
  const { method, url, body } = call;
  const headers = {
    ...call.headers,
    authorization: `Bearer ${token.trim()}`,
    'content-length': Buffer.byteLength(body),
  };
  return await new Promise((resolve, reject) => {
    const sent = request(url, { method, headers, ca, timeout: timeoutMs }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 502, body: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    sent.on('timeout', () => sent.destroy(new Error(`${url}: no answer within ${timeoutMs} ms`)));
    sent.on('error', reject);
    sent.end(body);
  });
}
