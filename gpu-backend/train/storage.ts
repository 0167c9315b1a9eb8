import { setTimeout as sleep } from 'node:timers/promises';

/** There is no room to save, and there was none for a while. The last checkpoint is as it was. */
export class StorageFull extends Error {
  override readonly name = 'StorageFull';
}

/** Whether an error says that a disk, or what may be used of it, is full. */
export function isStorageFull(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'ENOSPC' || code === 'EDQUOT';
}

/** Waits between tries to save where there is no room: about two minutes in sum, while somebody may make some. */
export const STORAGE_PAUSES_MS: readonly number[] = [1_000, 2_000, 5_000, 15_000, 30_000, 60_000];

/**
 * Saves; where there is no room, again after each pause.
 * @param onFull told before each pause
 * @param signal ends the waiting: what is not saved by then is computed again from the last checkpoint
 * @throws StorageFull when there was no room at the end; what else went wrong, at once
 */
export async function saveWithPatience(
  save: () => Promise<void>,
  options: {
    readonly pausesMs?: readonly number[];
    readonly onFull?: (message: string, pauseMs: number) => void | Promise<void>;
    readonly signal?: AbortSignal;
  } = {},
): Promise<void> {
  const { pausesMs = STORAGE_PAUSES_MS, signal } = options;
  for (let attempt = 0; ; attempt++) {
    try {
      return await save();
    } catch (error) {
      if (!isStorageFull(error)) throw error;
      const pauseMs = pausesMs[attempt];
      const message = error instanceof Error ? error.message : String(error);
      if (pauseMs === undefined || signal?.aborted === true)
        throw new StorageFull(`no room for a checkpoint after ${attempt + 1} tries: ${message}`);
      await options.onFull?.(message, pauseMs);
      await sleep(pauseMs, undefined, signal === undefined ? {} : { signal }).catch(() => {});
    }
  }
}
