import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Answer, Call } from './contender.ts';

/** A contender in a process of its own, which stays from its first call to `close`. */
export class Child {
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #log = '';
  /** Largest resident memory while loading, and since. */
  loadRssMb = 0;
  peakRssMb = 0;

  private constructor(process: ChildProcess) {
    this.#process = process;
    this.#lines = createInterface({ input: process.stdout! })[Symbol.asyncIterator]();
    process.stderr?.on('data', (piece: Buffer) => {
      this.#log = (this.#log + piece.toString()).slice(-4000);
    });
    process.on('error', (error) => {
      this.#log += error.message;
    });
    process.stdin?.on('error', () => {});
  }

  /**
   * Starts a contender and waits until its model is loaded.
   * @param cpu the only processor it may use, or `null`
   * @throws Error with what the process said last
   */
  static async start(command: readonly string[], cpu: number | null, env: NodeJS.ProcessEnv = {}): Promise<Child> {
    const pin = cpu !== null && process.platform === 'linux' ? ['taskset', '-c', String(cpu)] : [];
    const [program = '', ...args] = [...pin, ...command];
    const child = new Child(spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } }));
    await child.#answer();
    child.loadRssMb = child.peakRssMb;
    child.peakRssMb = 0;
    return child;
  }

  async call(call: Call): Promise<Answer> {
    this.#process.stdin?.write(`${JSON.stringify(call)}\n`);
    return this.#answer();
  }

  async #answer(): Promise<Answer> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error(`the process ended: ${this.#log.trim().split('\n').slice(-8).join('\n')}`);
    const answer = JSON.parse(value) as Answer;
    if (answer.error !== undefined) throw new Error(answer.error);
    this.peakRssMb = Math.max(this.peakRssMb, answer.peakRssMb);
    return answer;
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once('close', resolve));
    this.#process.stdin?.end();
    if (this.#process.exitCode === null) await ended;
  }
}
