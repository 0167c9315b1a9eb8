/** A backend as a child process, restarted with growing pauses when it dies. */
import { type ChildProcess, spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomText } from '../shared/wire/ids.ts';
import { backendArguments } from './bundle-backend.ts';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');
const FIRST_PAUSE_MS = 250;
const MAX_PAUSE_MS = 10_000;
/** Exit code of a backend that cannot use its environment (sysexits.h). */
const EX_CONFIG = 78;
/** A run that has answered for this long counts as healthy: the next pause is the first again. */
const HEALTHY_MS = 5_000;

export type BackendOptions = {
  edgeUrl: string;
  secret: string;
  dataDir: string;
  env?: Readonly<Record<string, string>>;
};

export class BackendProcess {
  #child: ChildProcess | null = null;
  #id = '';
  #stopping = false;
  #listeningSinceMs: number | null = null;
  #pauseMs = FIRST_PAUSE_MS;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #starting: Promise<void>;
  #failedStarts = 0;
  #isMisconfigured = false;

  constructor(readonly options: BackendOptions) {
    this.#starting = this.#start();
  }

  /** Process id of the running backend, for tests that kill it. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** What it registers as; another one after each restart, since what was known of the one before is no longer true. */
  get id(): string {
    return this.#id;
  }

  /** It answers, and has not died since. */
  get isListening(): boolean {
    return this.#listeningSinceMs !== null;
  }

  /** Runs in a row that ended before they answered. */
  get failedStarts(): number {
    return this.#failedStarts;
  }

  /** It has said that its environment is at fault; it is not started again. */
  get isMisconfigured(): boolean {
    return this.#isMisconfigured;
  }

  async #start(): Promise<void> {
    const { edgeUrl, secret, dataDir, env = {} } = this.options;
    const args = await backendArguments();
    if (this.#stopping) return;
    this.#id = `backend-${randomText(12)}`;
    // Our standard output is for people and scripts that wait for `ready`; logs go to standard error.
    const child = spawn(process.execPath, args, {
      cwd: ROOT,
      stdio: ['ignore', process.stderr, process.stderr, 'ipc'],
      env: {
        // Weights in huge pages (Linux, glibc): a step that reads all of them is up to 8 % faster. Elsewhere it means nothing.
        GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
        ...process.env,
        MANTIS_EDGE_URL: edgeUrl,
        MANTIS_BACKEND_ID: this.#id,
        MANTIS_BACKEND_SECRET: secret,
        MANTIS_BACKEND_PORT: '0',
        MANTIS_DATA_DIR: dataDir,
        MANTIS_PARENT_PID: String(process.pid),
        ...env,
      },
    });
    this.#child = child;
    child.on('message', () => {
      this.#listeningSinceMs = Date.now();
    });
    let ended = false;
    const onEnd = (reason: string, code: number | null = null) => {
      if (ended) return;
      ended = true;
      const sinceMs = this.#listeningSinceMs;
      this.#child = null;
      this.#listeningSinceMs = null;
      if (this.#stopping) return;
      if (code === EX_CONFIG) {
        this.#isMisconfigured = true;
        return;
      }
      if (sinceMs !== null && Date.now() - sinceMs > HEALTHY_MS) this.#pauseMs = FIRST_PAUSE_MS;
      this.#failedStarts = sinceMs !== null ? 0 : this.#failedStarts + 1;
      console.error(JSON.stringify({ level: 'warn', event: 'backend_ended', reason, restart_in_ms: this.#pauseMs }));
      this.#timer = setTimeout(() => {
        this.#starting = this.#start();
      }, this.#pauseMs);
      this.#pauseMs = Math.min(this.#pauseMs * 2, MAX_PAUSE_MS);
    };
    child.once('error', (error) => onEnd(String(error)));
    child.once('exit', (code, signal) => onEnd(signal ?? `exit code ${code}`, code));
  }

  /** SIGTERM, so that running answers end; SIGKILL after `graceMs`. Resolves when the process is gone. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#starting;
    const child = this.#child;
    if (child === null) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill('SIGTERM');
    const killer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await gone;
    clearTimeout(killer);
  }
}
