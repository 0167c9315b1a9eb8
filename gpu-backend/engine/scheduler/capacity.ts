import type { Capacity } from './types.ts';

/**
 * The scheduler's numbers for a server.
 * @param maxRows rows that decode or read their prompts at the same time
 * @param kvTokens positions of keys and values over all rows
 */
export function capacityFor({ maxRows, kvTokens }: Pick<Capacity, 'maxRows' | 'kvTokens'>): Capacity {
  return {
    maxRows,
    kvTokens,
    // Compute follows the arena's length; a re-layout costs a copy of it. 64 is the measured optimum.
    kvStepTokens: 64,
    // A factor of four in length: rows of one arena are never much longer than most of them need.
    classBounds: [512, 2048, 8192, 32_768],
    // A prompt that nobody waits behind is read in one run, which attends nothing twice.
    idleChunkTokens: 2048,
    busyChunkTokens: 256,
    imagesPerRun: 8,
    // Most answers are shorter than what they are allowed; a row that outgrows this may be preempted and goes on later.
    growthTokens: 128,
    agingMs: 10_000,
  };
}
