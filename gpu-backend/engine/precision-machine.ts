import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import type { VlmConfig } from '../models/config.ts';
import { RUNTIME_VERSION } from '../runtime/session.ts';

/** What times depend on besides the model: another of these, and they are measured anew. */
export interface Machine {
  readonly processor: string;
  /** Digest of the processor's instruction sets, as Linux lists them; empty where there is no list. */
  readonly instructions: string;
  readonly runtimeVersion: string;
  readonly threads: number;
  readonly binding: string;
}

export function thisMachine(threads: number): Machine {
  return {
    processor: cpus()[0]?.model.trim() || process.arch,
    instructions: instructionSets(),
    runtimeVersion: RUNTIME_VERSION,
    threads,
    binding: process.env.MANTIS_BINDING ?? 'auto',
  };
}

function instructionSets(): string {
  try {
    const flags = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
    return createHash('sha256').update(flags.trim().split(/\s+/).sort().join(' ')).digest('hex').slice(0, 16);
  } catch {
    return '';
  }
}

/** Size of the last cache that a core reads from, bytes; 32 MiB where the system does not say. */
export function lastCacheBytes(folder = '/sys/devices/system/cpu/cpu0/cache'): number {
  for (const level of ['index3', 'index2']) {
    try {
      const size = /^(\d+)K$/.exec(readFileSync(`${folder}/${level}/size`, 'utf8').trim())?.[1];
      if (size !== undefined) return Number(size) * 1024;
    } catch {
      // No such level, or no Linux.
    }
  }
  return 32 * 2 ** 20;
}

/** Names a decoder's sizes: models with equal ones take equal times. */
export function geometryOf({ family, text }: Pick<VlmConfig, 'family' | 'text'>): string {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocab, slidingWindow } = text;
  const kind = family === 'fuyu' ? 'persimmon' : 'llama';
  const window = slidingWindow === undefined ? '' : ` window ${slidingWindow}`;
  return `${kind} ${layers} layers of ${hidden}, ${heads}/${kvHeads} heads of ${headDim}, mlp ${intermediate}, vocab ${vocab}${window}`;
}
