/** workerd does not notice when the process that started it is killed; a shell that waits on a pipe does, and takes workerd with it. */
import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';

export type Guard = {
  /** Ends the guard without harm, for orderly stops. */
  release(): void;
  /** Whether those who are guarded still run. */
  areAlive(): boolean;
};

/** Guards this process' children named `workerd`. */
export async function guardWorkerd(): Promise<Guard> {
  const pids = await childrenNamed('workerd');
  // End of input without a line: we are gone. A line: we leave in order.
  const script = 'if ! read -r line; then kill -9 "$@" 2>/dev/null; fi';
  const child = spawn('sh', ['-c', script, 'workerd-guard', ...pids], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  child.on('error', () => {});
  child.stdin.on('error', () => {});
  child.unref();
  return { release: () => child.stdin.end('release\n'), areAlive: () => pids.every(isAlive) };
}

function isAlive(pid: string): boolean {
  try {
    return process.kill(Number(pid), 0);
  } catch {
    return false;
  }
}

async function childrenNamed(name: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=,comm=']);
  return stdout
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, parent, command]) => parent === String(process.pid) && command?.endsWith(name))
    .flatMap(([pid]) => (pid === undefined ? [] : [pid]));
}
