/** What a further job would take, and what there is. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { TrainStage } from '../../shared/contract/models.ts';

/** Share of the available memory that jobs may plan with; answers and the system's caches need the rest. */
const USABLE = 0.8;
/** Activations, arenas and pictures of one job. */
const ACTIVATION_BYTES = 256 * 2 ** 20;
/**
 * Parameters, gradients, further gradients and two moments, as shares of a base in float32 that is in memory already. Adapters and projectors move a small
 * part of it.
 */
const SHARE_OF_BASE: Readonly<Record<TrainStage, number>> = { projector: 0.25, lora: 0.25, full: 5 };

/** Stages that a further job over a base may have, by the memory that is left. */
export function stagesWithRoom(baseDir: string, availableBytes: number): TrainStage[] {
  // Stored in 16 bits, held in 32.
  const baseBytes = 2 * weightBytes(baseDir);
  return (['projector', 'lora', 'full'] as const).filter(
    (stage) => SHARE_OF_BASE[stage] * baseBytes + ACTIVATION_BYTES <= USABLE * availableBytes,
  );
}

function weightBytes(dir: string): number {
  return readdirSync(dir)
    .filter((name) => name.endsWith('.safetensors'))
    .reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
}

/**
 * How many processes the kernel has ended for want of memory, in this container where it counts for itself, else on this machine; 0 where it does not say.
 */
export function kernelMemoryKills(): number {
  for (const [path, key] of [
    ['/sys/fs/cgroup/memory.events', 'oom_kill'],
    ['/proc/vmstat', 'oom_kill'],
  ] as const) {
    try {
      const count = new RegExp(`^${key} (\\d+)$`, 'm').exec(readFileSync(path, 'utf8'))?.[1];
      if (count !== undefined) return Number(count);
    } catch {
      // Not on this system.
    }
  }
  return 0;
}
