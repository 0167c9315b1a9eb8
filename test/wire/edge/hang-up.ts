import { type ClientRequest, request } from 'node:http';

/**
 * Posts JSON and resolves with the first piece of the answer's body; `close` hangs up for certain, which aborting a `fetch` whose answer is being read does
 * not always do: its inner signal may have been collected.
 */
export function beginPost(
  url: string,
  headers: Readonly<Record<string, string>>,
  body: unknown,
): Promise<{ status: number; first: string; close(): void }> {
  return new Promise((resolve, reject) => {
    const call: ClientRequest = request(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
    });
    call.on('error', reject);
    call.on('response', (response) => {
      response.on('error', () => {});
      response.once('data', (chunk: Buffer) => {
        resolve({ status: response.statusCode ?? 0, first: chunk.toString(), close: () => call.destroy() });
      });
    });
    call.end(JSON.stringify(body));
  });
}
