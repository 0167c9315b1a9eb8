/** A webhook receiver that keeps what it gets and answers as told. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Received = { atMs: number; path: string; headers: Record<string, string>; body: string };

export type Receiver = {
  /** `127.0.0.1:<port>`, as MANTIS_EGRESS_ALLOW wants it. */
  host: string;
  received: Received[];
  /** Statuses of the next answers; 200 when empty. */
  answers: number[];
  close(): Promise<void>;
};

export async function startReceiver(port = 0): Promise<Receiver> {
  const received: Received[] = [];
  const answers: number[] = [];
  const server = createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      received.push({
        atMs: Date.now(),
        path: request.url ?? '',
        headers: request.headers as Record<string, string>,
        body,
      });
      const status = answers.shift() ?? 200;
      response.writeHead(status, status === 302 ? { location: '/elsewhere' } : {}).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const close = () => {
    server.closeAllConnections();
    return new Promise<void>((resolve) => server.close(() => resolve()));
  };
  return { host, received, answers, close };
}
