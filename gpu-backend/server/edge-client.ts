import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream, openAsBlob } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { LEASE_HEADER } from '../../shared/contract/backend.ts';
import { signatureHeaders, UNSIGNED_PAYLOAD } from '../../shared/wire/signature.ts';

/** The edge answered, and it was not a 2xx. */
export class EdgeError extends Error {
  override readonly name = 'EdgeError';
  constructor(
    readonly status: number,
    /** `error.code` of the envelope, or null when the body was something else. */
    readonly code: string | null,
    message: string,
  ) {
    super(message);
  }
}

/** What was downloaded is not what was stored. */
export class DigestMismatch extends Error {
  override readonly name = 'DigestMismatch';
}

export interface EdgeClientOptions {
  /** Origin of the edge, `http://127.0.0.1:8787`. */
  readonly url: string;
  readonly secret: string;
  /** One call, body included, may take this long. Default 10 s; transfers of files are given `transferTimeoutMs`. */
  readonly timeoutMs?: number;
  /** Default 10 min. */
  readonly transferTimeoutMs?: number;
}

/** Signed calls from a backend to its edge. Holds no state but the options, so that parent and child processes each make one. */
export class EdgeClient {
  readonly url: string;
  readonly #secret: string;
  readonly #timeoutMs: number;
  readonly #transferTimeoutMs: number;

  constructor(options: EdgeClientOptions) {
    this.url = options.url.replace(/\/$/, '');
    this.#secret = options.secret;
    this.#timeoutMs = options.timeoutMs ?? 10_000;
    this.#transferTimeoutMs = options.transferTimeoutMs ?? 600_000;
  }

  /** POST of JSON. Gives the parsed answer, `null` for 204. @throws EdgeError, or the network's error */
  async post(path: string, body: unknown): Promise<unknown> {
    const text = JSON.stringify(body);
    const response = await this.#fetch('POST', path, text, { 'content-type': 'application/json' }, this.#timeoutMs);
    return response.status === 204 ? null : await response.json();
  }

  /** GET of JSON. @throws EdgeError */
  async get(path: string): Promise<unknown> {
    return await (await this.#fetch('GET', path, null, {}, this.#timeoutMs)).json();
  }

  /** GET of a small blob. @throws EdgeError */
  async getBytes(path: string): Promise<Uint8Array> {
    const response = await this.#fetch('GET', path, null, {}, this.#transferTimeoutMs);
    return new Uint8Array(await response.arrayBuffer());
  }

  /**
   * GET of a blob that may be missing, which the edge says with 204: `null` then.
   * @param maxBytes a larger one is an error
   * @param signal gives it up
   * @throws EdgeError, or the network's error
   */
  async getBlob(path: string, maxBytes: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer> | null> {
    const response = await this.#fetch('GET', path, null, {}, this.#timeoutMs, signal);
    if (response.status === 204) return null;
    const bytes = Number(response.headers.get('content-length') ?? Number.NaN);
    if (!(bytes <= maxBytes)) {
      await response.body?.cancel();
      throw new Error(`${path}: expected at most ${maxBytes} bytes, received ${bytes}`);
    }
    return new Uint8Array(await response.arrayBuffer());
  }

  /** PUT of a blob, its bytes signed. @throws EdgeError */
  async putBlob(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const headers = { 'content-type': 'application/octet-stream' };
    await this.#fetch('PUT', path, bytes, headers, this.#transferTimeoutMs);
  }

  /** PUT of a file on disk, read as it goes; its bytes are not signed. Gives the parsed answer. @throws EdgeError */
  async putFile(path: string, file: string): Promise<unknown> {
    const headers = { 'content-type': 'application/octet-stream' };
    const response = await this.#fetch('PUT', path, await openAsBlob(file), headers, this.#transferTimeoutMs);
    return await response.json();
  }

  /**
   * Downloads into `file` through a temporary name, checking length and digest on the way: the file appears whole or not at all.
   * @throws EdgeError, or DigestMismatch naming both digests
   */
  async download(
    path: string,
    file: string,
    expected: { readonly bytes: number; readonly sha256: string },
  ): Promise<void> {
    const response = await this.#fetch('GET', path, null, {}, this.#transferTimeoutMs);
    if (response.body === null) throw new Error(`${path}: expected a body, received none`);
    await mkdir(dirname(file), { recursive: true });
    // Two downloads of one file (two models that share it) may overlap: each has a name of its own, and what they hold is the same.
    const temporary = `${file}.${randomUUID()}.part`;
    const hash = createHash('sha256');
    let bytes = 0;
    const meter = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk);
        bytes += chunk.byteLength;
        done(null, chunk);
      },
    });
    try {
      await pipeline(Readable.fromWeb(response.body), meter, createWriteStream(temporary));
      const digest = hash.digest('hex');
      if (bytes !== expected.bytes || digest !== expected.sha256)
        throw new DigestMismatch(
          `${path}: expected ${expected.bytes} bytes with SHA-256 ${expected.sha256}, received ${bytes} bytes with ${digest}`,
        );
      await rename(temporary, file);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /** PUT of a blob under a lease. The edge checks its digest when the manifest names it. @throws EdgeError */
  async upload(path: string, bytes: Uint8Array, leaseToken: number): Promise<void> {
    const headers = { 'content-type': 'application/octet-stream', [LEASE_HEADER]: String(leaseToken) };
    await this.#fetch('PUT', path, bytes, headers, this.#transferTimeoutMs);
  }

  async #fetch(
    method: string,
    path: string,
    body: Uint8Array | Blob | string | null,
    headers: Record<string, string>,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<Response> {
    const signed = await signatureHeaders({
      secret: this.#secret,
      method,
      target: path,
      // A checkpoint's files are checked against its manifest, and may be large; so may files on disk.
      body: LEASE_HEADER in headers || body instanceof Blob ? UNSIGNED_PAYLOAD : body,
      nowS: Date.now() / 1000,
    });
    const response = await fetch(this.url + path, {
      method,
      headers: { ...headers, ...signed },
      signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal === undefined ? [] : [signal])]),
      redirect: 'error',
      ...(body === null ? {} : { body: body as Uint8Array<ArrayBuffer> | Blob | string }),
    });
    if (response.ok) return response;
    const text = await response.text().catch(() => '');
    const error = parseError(text);
    throw new EdgeError(
      response.status,
      error.code,
      `${method} ${path}: expected 2xx, received ${response.status}: ${error.message}`,
    );
  }
}

function parseError(text: string): { code: string | null; message: string } {
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown; message?: unknown } };
    if (typeof error?.message === 'string')
      return { code: typeof error.code === 'string' ? error.code : null, message: error.message };
  } catch {
    // Not our envelope: a proxy's page or a cut body.
  }
  return { code: null, message: text.slice(0, 200) };
}
