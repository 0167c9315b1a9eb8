import { type ChildProcess, fork } from 'node:child_process';
import type { DeviceReply, DeviceRequest } from './device-protocol.ts';

/** How long a driver may take for one answer: the first session of a process compiles its kernels. */
const ANSWER_TIMEOUT_MS = 60_000;

/** A process that runs sessions on a device. Providers abort the process they are in, so none is tried in ours. */
export class DeviceProcess {
  readonly #child: ChildProcess;
  #lastWords = '';
  #waiting: { resolve: (reply: DeviceReply) => void; timer: NodeJS.Timeout } | null = null;
  #ended: string | null = null;

  constructor() {
    this.#child = fork(new URL('./device-child.ts', import.meta.url), [], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      // NaN and Infinity pass, as they would not through JSON.
      serialization: 'advanced',
    });
    this.#child.stderr?.on('data', (text: Buffer) => {
      this.#lastWords = (this.#lastWords + text.toString('utf8')).slice(-4000);
    });
    this.#child.on('message', (reply: DeviceReply) => this.#answer(reply));
    this.#child.on('exit', (code, signal) => this.#end(signal ?? `exit code ${code}`));
    this.#child.on('error', (error) => this.#end(error.message));
  }

  /** False once the process has ended; every further question fails. */
  get isAlive(): boolean {
    return this.#ended === null;
  }

  /** What it has written to its standard error so far, its end. */
  get lastWords(): string {
    return this.#lastWords;
  }

  /** One question at a time. A process that dies or takes too long is a `failed` answer. */
  ask(request: DeviceRequest, timeoutMs = ANSWER_TIMEOUT_MS): Promise<DeviceReply> {
    if (this.#ended !== null) return Promise.resolve({ kind: 'failed', message: this.#ended });
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#end(`gave no answer within ${timeoutMs} ms`);
        this.close();
      }, timeoutMs);
      this.#waiting = { resolve, timer };
      this.#child.send(request);
    });
  }

  /** Killed, not asked to leave: the clean-up of a driver is one more place where it can hang. */
  close(): void {
    this.#child.kill('SIGKILL');
  }

  #answer(reply: DeviceReply): void {
    if (this.#waiting === null) return;
    clearTimeout(this.#waiting.timer);
    const { resolve } = this.#waiting;
    this.#waiting = null;
    resolve(reply);
  }

  #end(how: string): void {
    this.#ended ??= `the process ended (${how})`;
    this.#answer({ kind: 'failed', message: this.#ended });
  }
}
