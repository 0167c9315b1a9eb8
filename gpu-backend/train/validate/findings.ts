import { join } from 'node:path';
import type { LeftOut } from '../../../shared/contract/backend.ts';
import type { DataName, DatasetProblem, ValidationProgress } from '../../../shared/contract/datasets.ts';
import type { DataExample } from '../data/example.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import { ExampleTable } from './examples.ts';
import { type DataFront, loadDataFront } from './front.ts';
import type { HeldOutInput, ValidateHooks, ValidateInput } from './input.ts';
import { PictureCheck } from './pictures.ts';
import { ProblemLog } from './problem-log.ts';
import { type CheckedList, subsetName } from './summary.ts';

/** A problem of no line. */
export const ABOUT_ALL = {
  data: 0,
  subset: null,
  line: null,
  message_index: null,
  part_index: null,
  param: null,
} as const;

interface BadLines {
  readonly data: DataName;
  readonly file: number;
  readonly lines: Set<number>;
}

/** What a validation has found so far: examples, pictures, problems, and which lines are bad. */
export class Findings {
  readonly table = new ExampleTable();
  readonly lists: CheckedList[] = [];
  /** Examples that are exact copies of earlier ones. */
  readonly copies = new Set<number>();
  /** Pictures of the training data; those of the validation data with the first example that has them. */
  readonly inTraining = new Set<number>();
  readonly inValidation = new Map<number, number>();
  /** Likewise of the held-out data. */
  readonly inHeldOut = new Map<number, number>();
  /** Options of what is held out hold none of its answers. */
  isUnanswerable = false;
  readonly counts = { exact: 0, near: 0, leakedImages: 0, leakedExamples: 0, heldOutImages: 0, heldOutExamples: 0 };
  private readonly bad: BadLines[] = [];

  private constructor(
    readonly input: ValidateInput,
    readonly hooks: ValidateHooks,
    readonly front: DataFront,
    readonly pictures: PictureCheck,
    readonly problems: ProblemLog,
  ) {}

  static async create(input: ValidateInput, hooks: ValidateHooks): Promise<Findings> {
    const front = loadDataFront(input.baseDir);
    const pictures = await PictureCheck.create(front.recipe, join(input.workDir, 'thumbs.bin'));
    const problems = await ProblemLog.create(join(input.workDir, 'problems.jsonl'));
    return new Findings(input, hooks, front, pictures, problems);
  }

  /** All lists of data: training, validation, held out. */
  get data(): FineTuneData[] {
    const { training, validation, heldOut = [] } = this.input;
    return [...training, ...(validation === undefined ? [] : [validation]), ...heldOut.map(({ data }) => data)];
  }

  /** What the list of that number is. */
  nameOf(list: number): DataName {
    const { training, validation } = this.input;
    if (list < training.length) return list;
    return list === training.length && validation !== undefined ? 'validation' : 'held_out';
  }

  /** What is said of a list that is held out. */
  heldOutOf(list: number): HeldOutInput | undefined {
    const { training, validation, heldOut = [] } = this.input;
    return heldOut[list - training.length - (validation === undefined ? 0 : 1)];
  }

  /** The field that names a list, for problems of the whole. */
  paramOf(list: number): string {
    const name = this.nameOf(list);
    if (name === 'held_out') return this.heldOutOf(list)?.param ?? '';
    return name === 'validation' ? 'validation_file' : 'training_file';
  }

  /** Writes a problem of a line down; an error makes its line one that is left out. */
  note(problem: DatasetProblem, file: number): void {
    this.problems.add(problem);
    if (problem.severity !== 'error' || problem.line === null) return;
    let entry = this.bad.find((known) => known.data === problem.data && known.file === file);
    if (entry === undefined) {
      entry = { data: problem.data, file, lines: new Set() };
      this.bad.push(entry);
    }
    entry.lines.add(problem.line);
  }

  /** A warning about an example as a whole. */
  tell(example: number, code: string, message: string): void {
    const list = this.table.list(example);
    const file = this.table.file(example);
    const data = this.data[list];
    this.problems.add({
      ...ABOUT_ALL,
      severity: 'warning',
      code,
      message,
      data: this.nameOf(list),
      subset: data !== undefined && data.spec.files.length > 1 ? subsetName(data, file) : null,
      line: this.table.line(example),
    });
  }

  /** A problem of the whole. */
  tellAll(severity: DatasetProblem['severity'], code: string, message: string): void {
    this.problems.add({ ...ABOUT_ALL, severity, code, message });
  }

  /** Reads an example back from its list, which must have been read whole. */
  async recordOf(example: number): Promise<DataExample> {
    const list = this.lists[this.table.list(example)];
    if (list === undefined) throw new Error(`example ${example} is of a list that is not read yet`);
    return await list.store.record(example - list.first);
  }

  /** The line of an example, with its file where there are several. */
  lineOf(example: number): string {
    const line = this.table.line(example);
    const data = this.data[this.table.list(example)];
    return data === undefined || data.spec.files.length === 1
      ? String(line)
      : `${line} of ${subsetName(data, this.table.file(example))}`;
  }

  leftOut(): LeftOut {
    const { training, validation } = this.input;
    // Nothing of held-out data is ever left out: what is wrong with it refuses all.
    return this.bad.flatMap(({ data, file, lines }) => {
      if (data === 'held_out') return [];
      const { spec } = (data === 'validation' ? validation : training[data]) ?? {};
      return { data, file: spec?.files[file]?.file_id ?? '', lines: [...lines].sort((a, b) => a - b) };
    });
  }

  progress(phase: ValidationProgress['phase'], done: number, total: number): void {
    this.hooks.onProgress?.({ phase, done, total, problems: this.problems.count });
  }

  async close(): Promise<void> {
    await this.pictures.close();
    await this.problems.close().catch(() => {});
    for (const { store } of this.lists) await store.close();
  }
}
