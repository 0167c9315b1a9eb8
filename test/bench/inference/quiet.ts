import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** Time that all processors of the machine were busy since start, in milliseconds; null where the system does not tell. */
function busyMs(): number | null {
  try {
    const [, user, nice, system, , , irq, softirq, steal] = readFileSync('/proc/stat', 'utf8')
      .split('\n')[0]!
      .split(/\s+/);
    // Counted in hundredths of a second.
    return 10 * [user, nice, system, irq, softirq, steal].reduce((sum, part) => sum + Number(part), 0);
  } catch {
    return null;
  }
}

/** Watches what else runs while something is timed. */
export class Neighbours {
  readonly #busyAtStart = busyMs();
  readonly #startedAt = performance.now();

  /** @param ownCpuMs CPU time of the measured process in between. @returns busy share of the other processors, 0 … 1 */
  share(ownCpuMs: number): number {
    const busy = busyMs();
    const others = Math.max(1, cpus().length - 1) * (performance.now() - this.#startedAt);
    if (busy === null || this.#busyAtStart === null) return 0;
    return Math.min(1, Math.max(0, (busy - this.#busyAtStart - ownCpuMs) / others));
  }
}
