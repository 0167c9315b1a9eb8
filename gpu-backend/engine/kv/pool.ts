/**
 * One arena for each class of row length, under one budget of positions. Arenas keep some room ahead of need (a longer T after
 * a long row left, buffers after many rows left); when another arena needs it, they give it back. So as long as the scheduler
 * keeps rows × longest row within the budget, the buffers are within it too.
 */
import { KvArena } from './arena.ts';
import { type KvShape, kvBytesPerToken } from './span.ts';

export class KvPool {
  readonly shape: KvShape;
  readonly #kvTokens: number;
  readonly #stepTokens: number;
  readonly #keepsBuffers: boolean;
  readonly #arenas = new Map<number, KvArena>();

  /**
   * @param kvTokens positions of all arenas together
   * @param stepTokens step in which rows grow
   * @param keepsBuffers whether memory is kept for the next rows until another arena needs it, or `trim`
   */
  constructor(shape: KvShape, kvTokens: number, stepTokens: number, keepsBuffers = false) {
    this.#keepsBuffers = keepsBuffers;
    this.shape = shape;
    this.#kvTokens = kvTokens;
    this.#stepTokens = stepTokens;
  }

  /** Positions of all buffers. */
  get positions(): number {
    let sum = 0;
    for (const arena of this.#arenas.values()) sum += arena.positions;
    return sum;
  }

  /** Positions that rows take: rows × the length of their arena. */
  get usedPositions(): number {
    let sum = 0;
    for (const arena of this.#arenas.values()) sum += arena.rows * arena.capacityTokens;
    return sum;
  }

  get rows(): number {
    let sum = 0;
    for (const arena of this.#arenas.values()) sum += arena.rows;
    return sum;
  }

  get bytes(): number {
    return this.positions * kvBytesPerToken(this.shape);
  }

  arena(index: number): KvArena {
    const known = this.#arenas.get(index);
    if (known !== undefined) return known;
    const spare = () => Math.max(0, this.#kvTokens - this.positions);
    const made = new KvArena(this.shape, this.#stepTokens, spare, this.#keepsBuffers);
    this.#arenas.set(index, made);
    return made;
  }

  /** Gives back all memory that holds no row. */
  trim(): void {
    for (const arena of this.#arenas.values()) arena.trim();
  }

  /** Takes a row in the arena of class `index`. */
  addRow(index: number): number {
    const arena = this.arena(index);
    this.#makeRoom(arena, (arena.rows + 1) * arena.capacityTokens);
    return arena.addRow();
  }

  /** Makes room for rows of `tokens` positions in the arena of class `index`. */
  ensureCapacity(index: number, tokens: number): void {
    const arena = this.arena(index);
    if (tokens <= arena.capacityTokens) return;
    this.#makeRoom(arena, arena.rows * Math.ceil(tokens / this.#stepTokens) * this.#stepTokens);
    arena.ensureCapacity(tokens);
  }

  /** Before `arena` grows to `positions`: where that would exceed the budget, what is only ahead of need is given back. */
  #makeRoom(arena: KvArena, positions: number): void {
    const excess = (): boolean =>
      this.positions - arena.positions + Math.max(positions, arena.positions) > this.#kvTokens;
    if (!excess()) return;
    for (const other of this.#arenas.values()) if (other !== arena) other.trim();
    if (excess()) arena.trim();
  }
}
