/** What makes two requests the same one: method, path and the content of the body. */
import { boundaryOf, MultipartParser } from '../files/multipart.ts';
import { largeChunks } from './body.ts';

/**
 * SHA-256 over a request as it is read. Multipart bodies are taken apart first, since every try draws a new boundary; one that cannot be taken apart
 * counts by its bytes.
 */
export class Fingerprint {
  readonly #stream = new crypto.DigestStream('SHA-256');
  readonly #writer = this.#stream.getWriter();
  readonly #encoder = new TextEncoder();
  #parser: MultipartParser | null;

  /** @param head method and target */
  constructor(head: string, contentType: string) {
    this.#parser = parserFor(contentType);
    this.#mark({ head, type: this.#parser === null ? contentType : 'multipart' });
  }

  async push(chunk: Uint8Array): Promise<void> {
    if (this.#parser === null) return this.#writer.write(chunk);
    let events: ReturnType<MultipartParser['push']>;
    try {
      events = this.#parser.push(chunk);
    } catch {
      this.#parser = null;
      return this.#writer.write(chunk);
    }
    for (const event of events) {
      if (event.type === 'data') await this.#writer.write(event.bytes);
      else this.#mark(event);
    }
  }

  /** Lower-case hex. */
  async end(): Promise<string> {
    await this.#writer.close();
    return [...new Uint8Array(await this.#stream.digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  }

  #mark(value: object): void {
    void this.#writer.write(this.#encoder.encode(`\n${JSON.stringify(value)}\n`));
  }
}

function parserFor(contentType: string): MultipartParser | null {
  try {
    return new MultipartParser(boundaryOf(contentType));
  } catch {
    return null;
  }
}

/** The same request, whose body is also shown to `see` as it is read, with no more of it in memory than is being read. */
export function watched(request: Request, see: (chunk: Uint8Array) => Promise<void> | void): Request {
  if (request.body === null) return request;
  const chunks = largeChunks(request.body);
  const body = new ReadableStream({
    type: 'bytes',
    async pull(controller: ReadableByteStreamController) {
      const { done, value } = await chunks.next();
      if (done) {
        controller.close();
        // A reader that gave a buffer waits for it.
        controller.byobRequest?.respond(0);
        return;
      }
      await see(value);
      controller.enqueue(value);
    },
    async cancel() {
      await chunks.return();
    },
  });
  return new Request(request, { body, signal: request.signal });
}
