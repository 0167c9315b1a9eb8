/** As much of the Kubernetes API as scaling a deployment takes: versions that conflict, pods that take annotations, refusals as `Status` objects. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

const DEPLOYMENT = '/apis/apps/v1/namespaces/vision/deployments/backends';
const TOKEN = 'token-of-the-account';

export class FakeKubernetes {
  readonly calls: string[] = [];
  replicas = 1;
  ready = 1;
  token = TOKEN;
  /** So many changes by somebody else come between a read and the write that follows. */
  rivals = 0;
  isForbidden = false;
  /** Pods by name, with their deletion cost; one that is not here is gone. */
  readonly pods = new Map<string, string | null>();
  #version = 1;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeKubernetes> {
    const server = createServer();
    const fake = new FakeKubernetes(server);
    server.on('request', (request, response) => void fake.#answer(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return fake;
  }

  get bindings(): Record<string, string> {
    return {
      SCALER: 'kubernetes',
      KUBERNETES_API: `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`,
      KUBERNETES_NAMESPACE: 'vision',
      KUBERNETES_DEPLOYMENT: 'backends',
      KUBERNETES_TOKEN: TOKEN,
    };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = chunks.length === 0 ? null : JSON.parse(Buffer.concat(chunks).toString('utf8'));
    const { method, url = '', headers } = request;
    this.calls.push(`${method} ${url}`);
    const json = (code: number, value: object) => {
      response.writeHead(code, { 'content-type': 'application/json' });
      response.end(JSON.stringify(value));
    };
    const refuse = (code: number, reason: string, message: string) =>
      json(code, { kind: 'Status', apiVersion: 'v1', status: 'Failure', reason, message, code });
    if (headers.authorization !== `Bearer ${this.token}`) return refuse(401, 'Unauthorized', 'Unauthorized');
    if (this.isForbidden)
      return refuse(403, 'Forbidden', 'deployments.apps "backends" is forbidden: cannot patch scale');
    if (method === 'PATCH' && headers['content-type'] !== 'application/merge-patch+json')
      return refuse(415, 'UnsupportedMediaType', String(headers['content-type']));
    const metadata = { name: 'backends', namespace: 'vision', resourceVersion: String(this.#version) };
    const status = { replicas: this.replicas, readyReplicas: this.ready };
    if (method === 'GET' && url === DEPLOYMENT)
      return json(200, { kind: 'Deployment', metadata, spec: { replicas: this.replicas }, status });
    if (url === `${DEPLOYMENT}/scale`) {
      if (method === 'PATCH') {
        if (this.rivals > 0) {
          this.rivals--;
          this.#version++;
        }
        if (body.metadata?.resourceVersion !== String(this.#version))
          return refuse(
            409,
            'Conflict',
            'the object has been modified; please apply your changes to the latest version',
          );
        this.#version++;
        this.replicas = body.spec.replicas;
      }
      return json(200, {
        kind: 'Scale',
        apiVersion: 'autoscaling/v1',
        metadata,
        spec: { replicas: this.replicas },
        status,
      });
    }
    const pod = /^\/api\/v1\/namespaces\/vision\/pods\/([^/]+)$/.exec(url)?.[1];
    if (method === 'PATCH' && pod !== undefined) {
      if (!this.pods.has(pod)) return refuse(404, 'NotFound', `pods "${pod}" not found`);
      this.pods.set(pod, body.metadata.annotations['controller.kubernetes.io/pod-deletion-cost']);
      return json(200, { kind: 'Pod', metadata: { name: pod } });
    }
    return refuse(404, 'NotFound', `${method} ${url}`);
  }
}
