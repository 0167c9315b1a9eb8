/** A lean HTTP/1.1 client over plain sockets: kept connections, one request at a time on each, answers read byte by byte as they come. */
import { connect, type Socket } from 'node:net';

export type Answer = { status: number; body: string };

/** One connection. `send` rejects when it breaks. */
export class Connection {
  readonly #socket: Socket;
  #head = '';
  #status = 0;
  /** Bytes of the body, or of the chunk, still to come; -1: headers; -2: a chunk's size line. */
  #left = -1;
  #isChunked = false;
  #line = '';
  #body: Buffer[] = [];
  #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void; onData: OnData } | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#read(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the connection was closed')));
  }

  static async open(port: number): Promise<Connection> {
    const socket = connect({ port, host: '127.0.0.1' });
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new Connection(socket);
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed;
  }

  /** @param onData pieces of the body, as soon as they are there; the answer's `body` is empty then */
  send(head: string, body: Buffer, onData: OnData = null): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject, onData };
      this.#socket.cork();
      this.#socket.write(head, 'latin1');
      this.#socket.write(body);
      this.#socket.uncork();
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #fail(error: Error): void {
    this.#waiting?.reject(error);
    this.#waiting = null;
  }

  #read(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left === -1) at = this.#readHead(chunk, at);
      else if (this.#left === -2) at = this.#readSize(chunk, at);
      else {
        const end = Math.min(chunk.length, at + this.#left);
        this.#keep(chunk.subarray(at, end));
        this.#left -= end - at;
        at = end;
        if (this.#left > 0) continue;
        if (this.#isChunked) this.#left = -2;
        else this.#end();
      }
    }
  }

  #readHead(chunk: Buffer, at: number): number {
    this.#head += chunk.toString('latin1', at);
    const end = this.#head.indexOf('\r\n\r\n');
    if (end < 0) return chunk.length;
    const rest = this.#head.length - end - 4;
    const head = this.#head.slice(0, end);
    this.#head = '';
    this.#status = Number(head.slice(9, 12));
    this.#isChunked = /\r\ntransfer-encoding: *chunked/i.test(head);
    this.#left = this.#isChunked ? -2 : Number(/\r\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0);
    if (this.#left === 0) this.#end();
    return chunk.length - rest;
  }

  #readSize(chunk: Buffer, at: number): number {
    const end = chunk.indexOf(10, at);
    this.#line += chunk.toString('latin1', at, end < 0 ? chunk.length : end);
    if (end < 0) return chunk.length;
    const line = this.#line.trim();
    this.#line = '';
    if (line === '') {
      // The line break after a chunk, or the one after the last.
      if (this.#isLast) this.#end();
      return end + 1;
    }
    const size = Number.parseInt(line, 16);
    if (size === 0) this.#isLast = true;
    else this.#left = size;
    return end + 1;
  }
  #isLast = false;

  #keep(piece: Buffer): void {
    if (this.#waiting?.onData) this.#waiting.onData(piece);
    else this.#body.push(Buffer.from(piece));
  }

  #end(): void {
    const answer = { status: this.#status, body: Buffer.concat(this.#body).toString() };
    this.#body = [];
    this.#left = -1;
    this.#isLast = false;
    const { resolve } = this.#waiting ?? {};
    this.#waiting = null;
    resolve?.(answer);
  }
}

export type OnData = ((piece: Buffer) => void) | null;
