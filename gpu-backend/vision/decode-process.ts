import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Duplex } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { type DecodeReply, FrameReader, frameHead } from './decode-frames.ts';
import type { ImageRecipe } from './recipes.ts';

export interface DecodeProcessEvents {
  readonly onReply: (reply: DecodeReply, body: Uint8Array<ArrayBuffer>) => void;
  /** Once, whatever the reason; `how` is a signal or exit code. */
  readonly onExit: (how: string) => void;
}

/** One child process that decodes pictures. Idle, it keeps neither the parent alive nor itself once the parent is gone. */
export class DecodeProcess {
  private readonly child: ChildProcess;
  /** None where the system has no descriptor left; then 'error' follows. */
  private readonly pipe: (Duplex & { ref?(): void; unref?(): void }) | null;
  private isGone = false;
  private isKilled = false;

  /** @throws Error where the system cannot start a process now */
  constructor({ onReply, onExit }: DecodeProcessEvents) {
    const script = fileURLToPath(new URL('./pool-worker.ts', import.meta.url));
    this.child = spawn(process.execPath, ['--expose-gc', '--import', import.meta.resolve('tsx'), script], {
      // A decoder needs no secrets. Fewer malloc arenas: memory goes back to the system after a large picture.
      env: { PATH: process.env.PATH, TMPDIR: process.env.TMPDIR, MALLOC_ARENA_MAX: '2' },
      stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    });
    this.pipe = ((this.child.stdio as readonly unknown[] | undefined)?.[3] as Duplex | undefined) ?? null;
    const reader = new FrameReader(onReply);
    const leave = (how: string): void => {
      if (this.isGone) return;
      this.isGone = true;
      this.pipe?.destroy();
      onExit(how);
    };
    this.pipe?.on('data', (piece: Uint8Array) => reader.push(piece));
    // A process that dies while it is written to; 'exit' tells the rest.
    this.pipe?.on('error', () => {});
    this.child.on('exit', (code, signal) => leave(signal ?? `exit code ${code}`));
    this.child.on('error', (error) => leave(error.message));
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  send(bytes: Uint8Array, recipe: ImageRecipe): void {
    this.pipe?.write(frameHead({ recipe }, bytes.byteLength));
    this.pipe?.write(bytes);
  }

  /** Whether it keeps the parent's event loop alive. */
  hold(isHeld: boolean): void {
    // Somebody waits for its end: a last word that it had written before must not let the parent go.
    if (isHeld || this.isKilled) {
      this.child.ref();
      this.pipe?.ref?.();
    } else {
      this.child.unref();
      this.pipe?.unref?.();
    }
  }

  /** Resolves once it is gone. */
  kill(): Promise<void> {
    if (this.isGone) return Promise.resolve();
    const gone = new Promise<void>((resolve) => {
      this.child.once('exit', () => resolve());
      this.child.once('error', () => resolve());
    });
    this.isKilled = true;
    this.child.ref();
    this.child.kill('SIGKILL');
    return gone;
  }

  /** Resident memory in bytes; 0 where there is no /proc. */
  residentBytes(): number {
    try {
      return Number(readFileSync(`/proc/${this.child.pid}/statm`, 'latin1').split(' ')[1]) * 4096;
    } catch {
      return 0;
    }
  }
}
