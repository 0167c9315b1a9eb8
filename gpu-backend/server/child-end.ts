import type { ChildProcess } from 'node:child_process';

export interface ChildEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Set where it could not be started, or not be sent to. */
  readonly error?: Error;
  /** As people are told: a signal's name, or the exit code. */
  readonly how: string;
}

/**
 * How a child process with an IPC channel ended, once everything that it said has been heard: its last words may still be in the channel when it exits, and
 * only the channel's end comes after them.
 */
export function childEnd(child: ChildProcess): Promise<ChildEnd> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve({ code: 1, signal: null, error, how: error.message }));
    child.once('exit', (code, signal) => {
      const end: ChildEnd = { code, signal, how: signal ?? `exit code ${code}` };
      if (!child.connected) resolve(end);
      else child.once('disconnect', () => resolve(end));
    });
  });
}
