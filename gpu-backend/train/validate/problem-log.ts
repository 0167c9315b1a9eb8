import { type FileHandle, open } from 'node:fs/promises';
import type { DatasetProblem } from '../../../shared/contract/datasets.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';

const WRITE_CHARS = 65_536;

/** Every problem of a validation: all are counted and written to a file, the first ones are kept for the report. */
export class ProblemLog {
  private readonly errors: DatasetProblem[] = [];
  private readonly warnings: DatasetProblem[] = [];
  private readonly byCode = new Map<string, number>();
  private pending = '';
  private writing: Promise<unknown> = Promise.resolve();
  private total = 0;

  private constructor(
    readonly path: string,
    private readonly file: FileHandle,
    private readonly maxListed: number,
  ) {}

  /** @param path of the file of all problems, JSON Lines */
  static async create(path: string, maxListed: number = LIMITS.dataset.maxReportedErrors): Promise<ProblemLog> {
    return new ProblemLog(path, await open(path, 'w'), maxListed);
  }

  add(problem: DatasetProblem): void {
    this.total++;
    this.byCode.set(problem.code, (this.byCode.get(problem.code) ?? 0) + 1);
    const list = problem.severity === 'error' ? this.errors : this.warnings;
    // What is about the whole is little, comes last, and may be why the data is refused.
    if (list.length < this.maxListed || problem.line === null) list.push(problem);
    this.pending += `${JSON.stringify(problem)}\n`;
    if (this.pending.length >= WRITE_CHARS) this.write();
  }

  get count(): number {
    return this.total;
  }

  /** By code, the most frequent first. */
  counts(): Record<string, number> {
    return Object.fromEntries([...this.byCode].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)));
  }

  /** The first ones, errors before warnings where not all have room, in the order of the data. */
  listed(): DatasetProblem[] {
    const kept = [...this.errors, ...this.warnings.slice(0, Math.max(0, this.maxListed - this.errors.length))];
    const rank = ({ data }: DatasetProblem): number =>
      typeof data === 'number' ? data : Number.MAX_SAFE_INTEGER - (data === 'validation' ? 1 : 0);
    return kept.sort((a, b) => rank(a) - rank(b) || (a.line ?? 0) - (b.line ?? 0));
  }

  /** Whether the report lists less than there is. */
  get isCut(): boolean {
    return this.total > this.maxListed;
  }

  /** Waits for what is being written, where it is much. */
  async settle(): Promise<void> {
    await this.writing;
  }

  async close(): Promise<void> {
    this.write();
    await this.writing;
    await this.file.close();
  }

  private write(): void {
    const text = this.pending;
    this.pending = '';
    if (text === '') return;
    this.writing = this.writing.then(() => this.file.write(text));
    // Thrown where it is awaited.
    this.writing.catch(() => {});
  }
}
