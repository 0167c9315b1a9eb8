/** Amazon ECS' JSON 1.1 protocol on a port: one service whose tasks appear at once, the errors that its users meet, and signatures that are checked. */
import { createHash, createHmac } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const CREDENTIALS = { id: 'AKIDEXAMPLE', secret: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' };
const REGION = 'eu-central-1';

/** How the next calls go wrong; each takes one off. */
export type Fault = { kind: 'throttled' | 'page' | 'denied' | 'cut'; times: number };

export class FakeEcs {
  readonly calls: { action: string; input: Record<string, unknown> }[] = [];
  desired = 1;
  pending = 0;
  isThere = true;
  fault: Fault | null = null;
  /** Tasks that cannot be protected, and why. */
  readonly unprotectable = new Map<string, string>();
  readonly isProtected = new Map<string, boolean>();
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<FakeEcs> {
    const server = createServer();
    const fake = new FakeEcs(server);
    server.on('request', (request, response) => void fake.#answer(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return fake;
  }

  get bindings(): Record<string, string> {
    return {
      SCALER: 'ecs',
      ECS_CLUSTER: 'mantis',
      ECS_SERVICE: 'backends',
      ECS_ENDPOINT: `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`,
      AWS_REGION: REGION,
      AWS_ACCESS_KEY_ID: CREDENTIALS.id,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secret,
    };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString('utf8');
    const action = String(request.headers['x-amz-target']).replace('AmazonEC2ContainerServiceV20141113.', '');
    const json = (status: number, value: object) => {
      response.writeHead(status, { 'content-type': 'application/x-amz-json-1.1' });
      response.end(JSON.stringify(value));
    };
    if (request.headers['content-type'] !== 'application/x-amz-json-1.1')
      return json(400, { __type: 'SerializationException', message: 'not JSON 1.1' });
    const wrong = signatureFault(request, body);
    if (wrong !== null) return json(400, { __type: 'InvalidSignatureException', message: wrong });
    const input = JSON.parse(body) as Record<string, unknown>;
    this.calls.push({ action, input });
    const { fault } = this;
    if (fault !== null && fault.times > 0) {
      fault.times--;
      if (fault.kind === 'throttled') return json(400, { __type: 'ThrottlingException', message: 'Rate exceeded' });
      if (fault.kind === 'denied')
        return json(400, { __type: 'AccessDeniedException', message: `not authorized to perform: ecs:${action}` });
      if (fault.kind === 'cut') return void request.socket.destroy();
      response.writeHead(500, { 'content-type': 'text/html' });
      return void response.end(`<!doctype html><title>500</title>${'<p>Internal Server Error</p>'.repeat(200)}`);
    }
    switch (action) {
      case 'DescribeServices':
        if (!this.isThere) return json(200, { services: [], failures: [{ arn: 'backends', reason: 'MISSING' }] });
        return json(200, { services: [this.#service()], failures: [] });
      case 'UpdateService':
        this.desired = Number(input.desiredCount);
        return json(200, { service: this.#service() });
      case 'UpdateTaskProtection': {
        const tasks = input.tasks as string[];
        if (tasks.length > 10) return json(400, { __type: 'InvalidParameterException', message: 'at most 10 tasks' });
        const failures = tasks.flatMap((arn) => {
          const reason = this.unprotectable.get(arn);
          return reason === undefined ? [] : [{ arn, reason }];
        });
        for (const task of tasks) this.isProtected.set(task, input.protectionEnabled === true);
        return json(200, { protectedTasks: [], failures });
      }
      default:
        return json(400, { __type: 'InvalidAction', message: action });
    }
  }

  #service(): object {
    const runningCount = this.desired - this.pending;
    return {
      serviceName: 'backends',
      status: 'ACTIVE',
      desiredCount: this.desired,
      runningCount,
      pendingCount: this.pending,
    };
  }
}

/** Signature version 4, computed again from what arrived (AWS General Reference, "Create a signed request"). */
function signatureFault({ headers, method, url }: IncomingMessage, body: string): string | null {
  const parts = /^AWS4-HMAC-SHA256 Credential=([^,]+), SignedHeaders=([^,]+), Signature=([0-9a-f]{64})$/.exec(
    headers.authorization ?? '',
  );
  if (parts === null) return `expected a signature of version 4, received ${headers.authorization}`;
  const [, credential = '', names = '', signature] = parts;
  const [id, day = '', region = '', service = '', end] = credential.split('/');
  if (id !== CREDENTIALS.id || region !== REGION || service !== 'ecs' || end !== 'aws4_request') return credential;
  const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
  const hmac = (key: Buffer | string, text: string) => createHmac('sha256', key).update(text).digest();
  const signed = names.split(';').map((name) => `${name}:${String(headers[name]).trim()}\n`);
  const canonical = [method, url, '', signed.join(''), names, sha256(body)].join('\n');
  const scope = `${day}/${region}/${service}/aws4_request`;
  const text = ['AWS4-HMAC-SHA256', headers['x-amz-date'], scope, sha256(canonical)].join('\n');
  const key = [day, region, service, 'aws4_request'].reduce<Buffer | string>(hmac, `AWS4${CREDENTIALS.secret}`);
  return hmac(key, text).toString('hex') === signature ? null : 'the signature does not match';
}
