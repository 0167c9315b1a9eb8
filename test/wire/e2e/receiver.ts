import { createServer, type IncomingHttpHeaders } from 'node:http';

export interface Delivery {
  readonly headers: IncomingHttpHeaders;
  /** The body as it came, which is what the signature is over. */
  readonly body: string;
}

export interface Receiver {
  readonly url: string;
  /** `host:port`, as `MANTIS_EGRESS_ALLOW` wants it. */
  readonly address: string;
  readonly deliveries: readonly Delivery[];
  /** Resolves with the delivery number `count` (from 1). */
  waitFor(count: number, timeoutMs: number): Promise<Delivery>;
  close(): Promise<void>;
}

/** A webhook receiver on loopback. `answers` are the status codes of its first answers; after them it says 200. */
export async function startReceiver(answers: readonly number[] = []): Promise<Receiver> {
  const deliveries: Delivery[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      deliveries.push({ headers: request.headers, body: Buffer.concat(chunks).toString('utf8') });
      response.writeHead(answers[deliveries.length - 1] ?? 200).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const bound = server.address();
  if (typeof bound !== 'object' || bound === null) throw new Error('the receiver has no port');
  const address = `127.0.0.1:${bound.port}`;
  return {
    url: `http://${address}/hook`,
    address,
    deliveries,
    async waitFor(count, timeoutMs) {
      const deadline = Date.now() + timeoutMs;
      for (;;) {
        const delivery = deliveries[count - 1];
        if (delivery !== undefined) return delivery;
        if (Date.now() > deadline) {
          throw new Error(`expected ${count} webhook deliveries within ${timeoutMs} ms, got ${deliveries.length}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
