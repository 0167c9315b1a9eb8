import type { Tensor } from '../runtime/session.ts';
import { type BaseModel, loadBaseModel } from './base-model.ts';
import { createTrainSession, type TrainSession, type TrainSessionSpec } from './train-session.ts';

/** Something that several jobs of a process use at once. */
export interface Loan<T> {
  readonly value: T;
  /** After the last user's, the thing ends. Calling it again does nothing. */
  release(): Promise<void>;
}

interface Entry<T> {
  readonly made: Promise<T>;
  users: number;
}

/** Things made once for all who want the same at the same time. */
export class Loans<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #end: (value: T) => Promise<void>;

  /** @param end called when nobody uses it any more */
  constructor(end: (value: T) => Promise<void>) {
    this.#end = end;
  }

  /** Number of things in use. */
  get size(): number {
    return this.#entries.size;
  }

  /** @param make called unless there is one under the same key; a failure is not kept */
  async borrow(key: string, make: () => T | Promise<T>): Promise<Loan<T>> {
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { made: Promise.resolve().then(make), users: 0 };
      this.#entries.set(key, entry);
    }
    const own = entry;
    own.users++;
    let isReleased = false;
    const release = async (): Promise<void> => {
      if (isReleased) return;
      isReleased = true;
      if (--own.users > 0) return;
      this.#entries.delete(key);
      await own.made.then(this.#end, () => {});
    };
    try {
      return { value: await own.made, release };
    } catch (error) {
      await release();
      throw error;
    }
  }
}

const models = new Loans<BaseModel>(async () => {});
const sessions = new Loans<TrainSession>(async ({ session }) => await session.release());
const stored = new Loans<Map<string, Tensor>>(async () => {});
const numbers = new WeakMap<object, number>();
let count = 0;

/**
 * A base model to read from: jobs over the same one get the same tensors, and with them one copy of its weights. A base's folder does not change while a
 * process runs, and nothing that trains writes into these tensors. One with an earlier fine-tune laid over it is the job's own.
 */
export async function borrowBaseModel(
  dir: string,
  tunedDir: string | undefined,
  isOnDisk: ((name: string) => boolean) | undefined,
): Promise<Loan<BaseModel>> {
  if (tunedDir !== undefined) return { value: loadBaseModel(dir, tunedDir, isOnDisk), release: async () => {} };
  return await models.borrow(`${dir} ${isOnDisk === undefined}`, () => loadBaseModel(dir, undefined, isOnDisk));
}

/** Weights that do not move, as graphs of this model and precision take them; who borrows them adds what is missing. */
export async function borrowStoredWeights(
  { weights }: BaseModel,
  precision: string | undefined,
): Promise<Loan<Map<string, Tensor>>> {
  const number = numbers.get(weights) ?? count++;
  numbers.set(weights, number);
  return await stored.borrow(`${number} ${precision ?? 'f32'}`, () => new Map());
}

/**
 * A training session for runs one after the other: jobs with equal graphs use the same, each with its own weights and gradients bound, and with it one
 * arena of activations. A run blocks the thread, so two never overlap.
 */
export async function borrowTrainSession(spec: TrainSessionSpec): Promise<Loan<TrainSession>> {
  return await sessions.borrow(JSON.stringify(spec), () => createTrainSession(spec));
}
