/** A host of pictures for tests: each path answers as its handler says, connections are counted. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

export class Origin {
  readonly seen: { path: string; headers: IncomingMessage['headers'] }[] = [];
  /** Bytes that left through sockets since the start, headers included. */
  sentBytes = 0;
  /** Connections open now, and the most there ever were at a time. */
  open = 0;
  mostOpen = 0;
  readonly #handlers = new Map<string, Handler>();
  readonly #server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? '';
    this.seen.push({ path: request.url ?? '', headers: request.headers });
    const handler = this.#handlers.get(path) ?? this.#handlers.get(`${path.slice(0, path.lastIndexOf('/'))}/*`);
    if (handler === undefined) response.writeHead(404).end('nothing here');
    else handler(request, response);
  });

  static async start(): Promise<Origin> {
    const origin = new Origin();
    origin.#server.on('connection', (socket: Socket) => {
      origin.open++;
      origin.mostOpen = Math.max(origin.mostOpen, origin.open);
      socket.on('close', () => {
        origin.open--;
        origin.sentBytes += socket.bytesWritten;
      });
    });
    await new Promise<void>((resolve) => origin.#server.listen(0, '127.0.0.1', resolve));
    return origin;
  }

  /** `127.0.0.1:<port>`, as MANTIS_EGRESS_ALLOW wants it. */
  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  url(path: string): string {
    return `http://${this.host}${path}`;
  }

  /** @param path exact, or everything one level below with `/*` at its end */
  on(path: string, handler: Handler): this {
    this.#handlers.set(path, handler);
    return this;
  }

  serve(path: string, body: Uint8Array, headers: Record<string, string> = {}): this {
    return this.on(path, (_, response) =>
      response.writeHead(200, { 'content-length': body.byteLength, ...headers }).end(body),
    );
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Answers with a redirect to exactly these characters, which Node's own headers would not let pass. */
export function redirectRaw(response: ServerResponse, to: string): void {
  const { socket } = response;
  socket?.end(`HTTP/1.1 302 Found\r\nlocation: ${to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n`);
}
