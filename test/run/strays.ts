import { readdirSync, readFileSync } from 'node:fs';

/** Environment variable that every process of one test run inherits, so that what it leaves behind can be found. */
export const RUN_MARK = 'MANTIS_TEST_RUN';

export interface Stray {
  readonly pid: number;
  readonly command: string;
}

/**
 * Processes that carry this run's mark and are not in `except`. Reads /proc, so it finds nothing where there is none
 * (macOS); detached grandchildren are found as well, which a process group would miss.
 */
export function findStrays(mark: string, except: ReadonlySet<number>): Stray[] {
  const strays: Stray[] = [];
  for (const name of listProc()) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || except.has(pid)) continue;
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
      if (!environment.includes(`${RUN_MARK}=${mark}`)) continue;
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').trim();
      // A zombie has no command line any more: it has ended and only waits for its parent to read its status.
      if (command !== '') strays.push({ pid, command });
    } catch {
      // The process ended between the listing and the read, or belongs to somebody else.
    }
  }
  return strays;
}

/** Ends processes that this run started and lost. */
export function killStrays(strays: readonly Stray[]): void {
  for (const { pid } of strays) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // Already gone.
    }
  }
}

function listProc(): string[] {
  try {
    return readdirSync('/proc');
  } catch {
    return [];
  }
}
