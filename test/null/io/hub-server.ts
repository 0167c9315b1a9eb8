import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ServedFile {
  data: Buffer;
  /** Kept at a second origin (the storage host), reached by a redirect; otherwise sent by the hub itself. */
  readonly isLarge: boolean;
}

export interface Seen {
  readonly host: 'hub' | 'storage';
  readonly path: string;
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
  readonly authorization: string | undefined;
}

/** What may go wrong with one answer that carries content; the first fault whose file matches is used up. */
export interface Fault {
  readonly file: string;
  /** Cut the connection after so many bytes of this answer. */
  readonly dropAfter?: number;
  /** Before the cut, so that what was sent is read: a broken stream drops what waits in it. Default 60. */
  readonly dropDelayMs?: number;
  /** Send so many bytes, then nothing more. */
  readonly stallAfter?: number;
  /** Announce and send a shorter body than there is. */
  readonly shorten?: number;
  readonly status?: number;
  readonly headers?: Record<string, string>;
  /** Runs before the answer: to change the content in the middle of a download. */
  readonly before?: () => void;
  /** At the hub instead of at the storage host. */
  readonly atHub?: boolean;
}

const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex');
export const blobSha1 = (data: Buffer): string =>
  createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex');

/** A hub on loopback, with its storage host at another origin, real sockets and all, that misbehaves on request. */
export class FaultyHub {
  readonly files = new Map<string, ServedFile>();
  readonly faults: Fault[] = [];
  readonly seen: Seen[] = [];
  /** Changes what the listing says. */
  listing: (siblings: Record<string, unknown>[]) => unknown = (siblings) => ({ sha: 'c'.repeat(40), siblings });
  /** Status, x-error-code for every request without the token. */
  gate: { readonly status: number; readonly code?: string; readonly token: string } | undefined;
  linkedEtag: ((name: string) => string) | undefined;
  private readonly hub: Server;
  private readonly storage: Server;

  constructor() {
    this.hub = createServer((request, response) => this.atHub(request, response));
    this.storage = createServer((request, response) => this.atStorage(request, response));
  }

  async start(): Promise<void> {
    for (const server of [this.hub, this.storage]) {
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
    }
  }

  stop(): void {
    for (const server of [this.hub, this.storage]) {
      server.close();
      server.closeAllConnections();
    }
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.hub.address() as AddressInfo).port}`;
  }

  get storageOrigin(): string {
    return `http://127.0.0.1:${(this.storage.address() as AddressInfo).port}`;
  }

  put(name: string, data: Buffer | string, isLarge = false): void {
    this.files.set(name, { data: Buffer.from(data), isLarge });
  }

  private note(host: Seen['host'], request: IncomingMessage): string {
    const { range, authorization } = request.headers;
    const ifRange = request.headers['if-range'];
    const path = decodeURIComponent(request.url ?? '');
    this.seen.push({ host, path, range, authorization, ifRange: ifRange === undefined ? undefined : String(ifRange) });
    return path;
  }

  private atHub(request: IncomingMessage, response: ServerResponse): void {
    const path = this.note('hub', request);
    if (this.gate !== undefined && request.headers.authorization !== `Bearer ${this.gate.token}`) {
      const code = this.gate.code === undefined ? {} : { 'x-error-code': this.gate.code };
      response.writeHead(this.gate.status, code).end();
      return;
    }
    if (path.startsWith('/api/models/')) {
      const fault = this.takeFault('listing', true);
      if (fault?.status !== undefined) {
        response.writeHead(fault.status, fault.headers).end('busy');
        return;
      }
      const siblings = [...this.files].map(([rfilename, { data, isLarge }]) => ({
        rfilename,
        size: data.length,
        blobId: isLarge ? 'f'.repeat(40) : blobSha1(data),
        ...(isLarge ? { lfs: { sha256: sha256(data), size: data.length, pointerSize: 134 } } : {}),
      }));
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(this.listing(siblings)));
      return;
    }
    const name = /\/resolve\/[^/]+\/(.+)$/.exec(path)?.[1] ?? '';
    const file = this.files.get(name);
    if (file === undefined) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end();
      return;
    }
    if (!file.isLarge) {
      this.send(name, file.data, `"${blobSha1(file.data)}"`, request, response, true);
      return;
    }
    response
      .writeHead(302, {
        location: `${this.storageOrigin}/blobs/${name}?signed=1`,
        'x-linked-etag': `"${this.linkedEtag?.(name) ?? sha256(file.data)}"`,
        'x-linked-size': String(file.data.length),
      })
      .end();
  }

  private atStorage(request: IncomingMessage, response: ServerResponse): void {
    const path = this.note('storage', request);
    const name = /\/blobs\/(.+)\?/.exec(path)?.[1] ?? '';
    const fault = this.faults.find((f) => f.file === name);
    fault?.before?.();
    const data = this.files.get(name)?.data ?? Buffer.alloc(0);
    // An entity tag of the storage's own, as multipart uploads have.
    this.send(name, data, `"${sha256(data).slice(0, 32)}-2"`, request, response, false);
  }

  private takeFault(file: string, isHub: boolean): Fault | undefined {
    const at = this.faults.findIndex((fault) => fault.file === file && (fault.atHub ?? isHub) === isHub);
    return at < 0 ? undefined : this.faults.splice(at, 1)[0];
  }

  private send(
    name: string,
    data: Buffer,
    etag: string,
    request: IncomingMessage,
    response: ServerResponse,
    isHub: boolean,
  ): void {
    const fault = this.takeFault(name, isHub);
    if (fault?.status !== undefined) {
      response.writeHead(fault.status, fault.headers).end();
      return;
    }
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const isSame = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
    const isPartial = request.headers.range !== undefined && isSame;
    if (isPartial && start >= data.length) {
      response.writeHead(416, { 'content-range': `bytes */${data.length}` }).end();
      return;
    }
    const body = data.subarray(isPartial ? start : 0, fault?.shorten ?? data.length);
    response.writeHead(isPartial ? 206 : 200, {
      etag,
      'content-length': body.length,
      ...(isPartial ? { 'content-range': `bytes ${start}-${data.length - 1}/${data.length}` } : {}),
      ...fault?.headers,
    });
    const sent = fault?.dropAfter ?? fault?.stallAfter;
    if (sent === undefined) {
      response.end(body);
      return;
    }
    response.write(body.subarray(0, sent), () => {
      if (fault?.dropAfter !== undefined) setTimeout(() => response.destroy(), fault.dropDelayMs ?? 60);
    });
  }
}
