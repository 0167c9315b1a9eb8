import type { BackendSnapshot } from './snapshot.ts';

/** What runs the backends, seen from outside: how many it was asked for, how many are up, how many are coming. */
export type Observed = {
  desired: number;
  running: number;
  starting: number;
  /** Ids of the backends that it runs; absent: all that register are its own. Others count for nothing and are left alone. */
  ids?: readonly string[];
  /** Why it cannot start any now, for people; null: it can. */
  problem?: string | null;
  /** The installation ends: nobody is started any more, whoever waits. */
  isStopping?: boolean;
};

/** Changes the number of backends. Calls may be repeated; what stands at the end of the last one counts. */
export interface Driver {
  readonly name: 'local' | 'ecs' | 'kubernetes';
  /** How old an observation may be while nothing changes, ms. */
  readonly observeEveryMs: number;
  /** @throws Error where it cannot be asked; a `DriverError` says whether trying again may help */
  observe(): Promise<Observed>;
  /**
   * Asks for `count` backends.
   * @param remove who is to go if there are fewer than before; nobody else may
   * @param keep all others that are known, so that a service that chooses by itself can be told to spare them
   * @throws as `observe`
   */
  scaleTo(count: number, remove: readonly string[], keep: readonly BackendSnapshot[]): Promise<void>;
}

/** The service behind a driver refused or failed. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
  constructor(
    message: string,
    /** False: somebody has to change a setting or a permission first. */
    readonly isRetryable: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
