/**
 * Reads the data of a job once and says everything about it: what is wrong with which line, what is odd, what comes twice, and what training on it would
 * take. Constant memory: of an example and of a picture a few bytes stay, pictures and texts lie on disk.
 */
import { join } from 'node:path';
import type { LeftOut, ValidateResult } from '../../../shared/contract/backend.ts';
import type { DatasetProblem, DatasetReport, TrainingEstimate } from '../../../shared/contract/datasets.ts';
import { errorMessage } from '../../../shared/contract/facts.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { decideStages, type Stage, type StageDraft } from '../../../shared/contract/training.ts';
import { expectedWeights, readConfig } from '../../models/load.ts';
import { LayoutError, type Message } from '../../text/layout.ts';
import { contentHashOf, type DataExample } from '../data/example.ts';
import { type ImageReader, importData } from '../data/import.ts';
import type { FetchImage } from '../data/store.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import { planStage, StageError } from '../stage-plan.ts';
import { DigestIndex } from './digest-index.ts';
import { ExampleTable } from './examples.ts';
import { type DataFront, layoutOf, loadDataFront } from './front.ts';
import { findAlike, findNearExamples } from './near.ts';
import { PictureCheck, type PictureLook } from './pictures.ts';
import { ProblemLog } from './problem-log.ts';
import { type CheckedList, subsetName, summarise } from './summary.ts';
import { bandsOf, shinglesOf } from './text-signature.ts';

const D = LIMITS.dataset;

export interface ValidateInput {
  /** Checkpoint folder of the base model. */
  readonly baseDir: string;
  /** `Stage.data` is an index into it. */
  readonly training: readonly FineTuneData[];
  readonly validation?: FineTuneData;
  readonly stages: readonly StageDraft[];
  /** Largest share of bad lines, 0 … 1; above it the data is refused. */
  readonly maxBadShare: number;
  /** Scratch. */
  readonly workDir: string;
  /** Pictures that the files hold are kept here; may be the job's own. Default `<workDir>/images`. */
  readonly imageDir?: string;
}

export interface ValidateProgress {
  readonly phase: 'reading' | 'comparing' | 'estimating';
  /** Bytes read of all files; examples compared. */
  readonly done: number;
  readonly total: number;
  readonly problems: number;
}

export interface ValidateHooks {
  /** Bytes of a picture that is not in the files. @throws UnavailablePicture where there is none */
  readonly fetchImage?: FetchImage;
  /** Folder that paths of pictures start from, by list and file; without one a path is an error. */
  readonly imageRoot?: (data: number | 'validation', file: number) => string | undefined;
  /** Measures what training on the data would take, or says why it cannot. */
  readonly estimate?: (
    lists: readonly CheckedList[],
    stages: readonly Stage[],
    table: ExampleTable,
  ) => Promise<TrainingEstimate | string>;
  readonly onProgress?: (progress: ValidateProgress) => void;
  readonly signal?: AbortSignal;
}

/** As the edge gets it, and the file of all problems, JSON Lines, where the report lists only the first. */
export interface Validated extends Pick<ValidateResult, 'report' | 'leftOut' | 'trainingExamples'> {
  readonly problemsPath: string | null;
}

/** @throws the signal's reason; defects, and whatever hooks throw */
export async function validateData(input: ValidateInput, hooks: ValidateHooks = {}): Promise<Validated> {
  const check = await DataCheck.create(input, hooks);
  try {
    return await check.run();
  } finally {
    await check.close();
  }
}

class DataCheck {
  private readonly table = new ExampleTable();
  /** Conversations by content, pictures by their pixels: which example had it first, of training and of validation data. */
  private readonly contents = new DigestIndex();
  private readonly firstOf: number[] = [];
  private readonly copies = new Set<number>();
  private readonly lists: CheckedList[] = [];
  /** Bad lines: by list, by file, ascending. */
  private readonly bad: { readonly data: number | 'validation'; readonly file: number; readonly lines: Set<number> }[] =
    [];
  private readonly inTraining = new Set<number>();
  private readonly inValidation = new Map<number, number>();
  private readonly counts = { exact: 0, near: 0, leakedImages: 0, leakedExamples: 0 };
  private readonly bytesTotal: number;
  private bytesBefore = 0;

  private constructor(
    private readonly input: ValidateInput,
    private readonly hooks: ValidateHooks,
    private readonly front: DataFront,
    private readonly pictures: PictureCheck,
    private readonly problems: ProblemLog,
  ) {
    this.bytesTotal = allData(input).reduce((sum, { spec }) => sum + bytesOf(spec.files), 0);
  }

  static async create(input: ValidateInput, hooks: ValidateHooks): Promise<DataCheck> {
    const front = loadDataFront(input.baseDir);
    const pictures = await PictureCheck.create(front.recipe, join(input.workDir, 'thumbs.bin'));
    const problems = await ProblemLog.create(join(input.workDir, 'problems.jsonl'));
    return new DataCheck(input, hooks, front, pictures, problems);
  }

  async run(): Promise<Validated> {
    const { input } = this;
    for (const [i, data] of input.training.entries()) await this.readList(data, i);
    if (input.validation !== undefined) await this.readList(input.validation, 'validation');
    await this.compare();
    const training = this.lists.slice(0, input.training.length).map((list) => summarise(list, this.table));
    const own = this.lists[input.training.length];
    const validation = own === undefined ? null : summarise(own, this.table);
    const trainingExamples = this.lists.slice(0, input.training.length).map(({ store }) => store.length);
    const stages = decideStages(input.stages, trainingExamples);
    this.warnOfOverlong(stages);
    const all = [...training, ...(validation === null ? [] : [validation])];
    const badShare = Math.max(0, ...all.map(({ bad, examples }) => (examples === 0 ? 0 : bad / examples)));
    const isEmpty = all.some(({ usable }) => usable === 0);
    const canRun = this.planProblems(stages);
    const verdict = isEmpty || !canRun || badShare > input.maxBadShare ? 'refused' : 'accepted';
    this.progress('estimating', 0, stages.length);
    const estimate = verdict === 'refused' ? null : await this.estimate(stages);
    await this.problems.close();
    const leftOut = this.leftOut();
    const report: DatasetReport = {
      object: 'dataset.report',
      verdict,
      bad_share: badShare,
      max_bad_share: input.maxBadShare,
      training,
      validation,
      problem_counts: this.problems.counts(),
      problems: this.problems.listed(),
      problems_file: null,
      left_out: this.listedLeftOut(leftOut),
      duplicates: { exact: this.counts.exact, near: this.counts.near },
      leakage: { images: this.counts.leakedImages, examples: this.counts.leakedExamples },
      estimate,
    };
    return { report, leftOut, trainingExamples, problemsPath: this.problems.isCut ? this.problems.path : null };
  }

  async close(): Promise<void> {
    await this.pictures.close();
    await this.problems.close().catch(() => {});
    for (const { store } of this.lists) await store.close();
  }

  private async readList(data: FineTuneData, name: number | 'validation'): Promise<void> {
    const { hooks, input } = this;
    const number = this.lists.length;
    const first = this.table.length;
    const imageRoot = hooks.imageRoot;
    const { store, files } = await importData(data.spec, data.paths, join(input.workDir, `list-${number}`), {
      data: name,
      imageDir: input.imageDir ?? join(input.workDir, 'images'),
      onProblem: (problem, file) => this.note(problem, file),
      onExample: (example, reader) => this.example(example, reader, data, name, number),
      onProgress: (done) => this.progress('reading', this.bytesBefore + done, this.bytesTotal),
      ...(hooks.fetchImage === undefined ? {} : { fetchImage: hooks.fetchImage }),
      ...(imageRoot === undefined ? {} : { imageRoot: (file: number) => imageRoot(name, file) }),
      signal: hooks.signal,
    });
    this.bytesBefore += bytesOf(data.spec.files);
    this.lists.push({ data, store, files, first });
    if (files.every(({ usable }) => usable === 0))
      this.problems.add({
        ...ABOUT_ALL,
        severity: 'error',
        code: 'no_usable_examples',
        message: errorMessage('data', { expected: 'at least 1 example without errors', received: 'none' }),
        data: name,
        param: name === 'validation' ? 'validation_file' : 'training_file',
      });
  }

  /** Writes a problem down; an error makes its line one that is left out. */
  private note(problem: DatasetProblem, file: number): void {
    this.problems.add(problem);
    if (problem.severity !== 'error' || problem.line === null) return;
    let entry = this.bad.find((known) => known.data === problem.data && known.file === file);
    if (entry === undefined) {
      entry = { data: problem.data, file, lines: new Set() };
      this.bad.push(entry);
    }
    entry.lines.add(problem.line);
  }

  /** @returns false where the example cannot be trained on */
  private async example(
    example: DataExample,
    reader: ImageReader,
    data: FineTuneData,
    name: number | 'validation',
    list: number,
  ): Promise<boolean> {
    const subset = data.spec.files.length > 1 ? subsetName(data, example.file) : null;
    const say = (
      severity: DatasetProblem['severity'],
      code: string,
      message: string,
      where: Partial<Pick<DatasetProblem, 'message_index' | 'part_index' | 'param'>> = {},
    ): void => {
      const place = { message_index: null, part_index: null, param: null, ...where };
      this.note({ severity, code, message, data: name, subset, line: example.line, ...place }, example.file);
    };
    const places = placesOf(example.messages);
    let isGood = true;
    const fail: typeof say = (...about) => {
      isGood = false;
      say(...about);
    };
    const looks = await Promise.all(
      example.images.map((reference) => this.pictures.look(reference, (own) => reader.readImage(own))),
    );
    for (const [i, look] of looks.entries()) {
      const where: Partial<Place> = places.get(i) ?? {};
      if (look.fault !== null) fail('error', look.fault.code, named(look.fault.message, where.param), where);
      for (const { code, message } of look.odd) say('warning', code, `${where.param ?? 'image'}: ${message}.`, where);
    }
    const length = this.measure(example, looks, fail);
    if (length === null || !isGood) return false;
    const pictures = looks.map(({ picture }) => picture ?? 0);
    const number = this.table.push({
      list,
      file: example.file,
      line: example.line,
      ...length,
      turns: example.messages.length,
      skill: example.skill,
      pictures,
      bands: bandsOf(shinglesOf(example.messages)),
    });
    this.findCopies(number, example, pictures, name, say);
    await this.problems.settle();
    return true;
  }

  /** @returns token counts, or null where the example cannot be laid out or does not fit the context */
  private measure(
    example: DataExample,
    looks: readonly PictureLook[],
    fail: (severity: 'error', code: string, message: string, where?: { param: string }) => void,
  ): { tokens: number; supervisedTokens: number; imageTokens: number } | null {
    const { slots, contextTokens } = this.front;
    // Without its pictures' sizes nothing can be said about its length.
    if (slots.fixed === null && looks.some(({ picture }) => picture === null)) return null;
    try {
      const layout = layoutOf(this.front, example.messages, (image) =>
        this.pictures.sizeOf(looks[image]?.picture ?? 0),
      );
      const imageTokens = layout.images.reduce((sum, { tokenCount }) => sum + tokenCount, 0);
      const tokens = layout.ids.length;
      let supervisedTokens = 0;
      for (const weight of layout.weights) if (weight > 0) supervisedTokens++;
      if (tokens > contextTokens)
        fail(
          'error',
          'context_length_exceeded',
          errorMessage('messages', {
            expected: `at most the ${contextTokens} tokens of the model's context`,
            received: `${tokens} tokens (${imageTokens} of them for ${layout.images.length} images)`,
            remedy: 'Shorten or divide the example; nothing is cut off.',
          }),
          { param: 'messages' },
        );
      if (supervisedTokens === 0)
        fail(
          'error',
          'nothing_to_learn',
          errorMessage('messages', {
            expected: 'at least one assistant turn whose weight is not 0',
            received: 'nothing that is learned',
          }),
          { param: 'messages' },
        );
      return { tokens, supervisedTokens, imageTokens };
    } catch (error) {
      if (!(error instanceof LayoutError)) throw error;
      fail('error', 'invalid_value', `${error.path}: ${error.message}.`, { param: error.path });
      return null;
    }
  }

  /** Exact copies, and what of the validation data is in the training data too. */
  private findCopies(
    number: number,
    example: DataExample,
    pictures: readonly number[],
    name: number | 'validation',
    say: (severity: 'warning', code: string, message: string, where?: { param: string }) => void,
  ): void {
    // Pictures count by their pixels: the same one may be embedded here and uploaded there.
    const hash = contentHashOf(
      example.messages,
      pictures.map((picture) => `pixels ${picture}`),
    );
    const { number: content, isNew } = this.contents.add(hash);
    if (isNew) this.firstOf[content] = number;
    else {
      const first = this.firstOf[content] ?? 0;
      const isOwn = this.table.list(first) === this.table.list(number);
      if (isOwn) {
        this.copies.add(number);
        this.counts.exact++;
        say('warning', 'duplicate', `The same example as line ${this.lineOf(first)}.`);
      } else if (name === 'validation') {
        this.copies.add(number);
        this.counts.leakedExamples++;
        say('warning', 'leaked_example', `The same example is in the training data, line ${this.lineOf(first)}.`);
      }
    }
    for (const [i, picture] of pictures.entries()) {
      if (name !== 'validation') this.inTraining.add(picture);
      else if (!this.inValidation.has(picture)) {
        this.inValidation.set(picture, number);
        if (!this.inTraining.has(picture)) continue;
        this.counts.leakedImages++;
        say('warning', 'leaked_image', `Image ${i + 1} is in the training data too, pixel for pixel.`);
      }
    }
  }

  /** Near duplicates, and validation pictures that look like training pictures. */
  private async compare(): Promise<void> {
    const { table, pictures, hooks } = this;
    this.progress('comparing', 0, table.length);
    const examples = Array.from({ length: table.length }, (_, e) => e).filter((e) => !this.copies.has(e));
    const { pairs, isWhole } = await findNearExamples(
      table,
      pictures,
      examples,
      async (e) => (await this.recordOf(e)).messages,
      hooks.signal,
    );
    const validationList = this.input.training.length;
    for (const { first, second } of pairs) {
      const [a, b] = [table.list(first), table.list(second)];
      if (a === b) {
        this.counts.near++;
        this.tell(second, 'near_duplicate', `Almost the same example as line ${this.lineOf(first)}.`);
      } else if (b === validationList) {
        this.counts.leakedExamples++;
        this.tell(
          second,
          'leaked_example',
          `Almost the same example is in the training data, line ${this.lineOf(first)}.`,
        );
      }
    }
    if (!isWhole)
      this.problems.add({
        ...ABOUT_ALL,
        severity: 'warning',
        code: 'near_duplicates_incomplete',
        message: 'So many examples are alike that not all of them were compared; there may be more near duplicates.',
      });
    const wanted = [...this.inValidation.keys()].filter((picture) => !this.inTraining.has(picture));
    for (const picture of (await findAlike(pictures, wanted, [...this.inTraining])).keys()) {
      this.counts.leakedImages++;
      const example = this.inValidation.get(picture) ?? 0;
      const position = table.pictures(example).indexOf(picture) + 1;
      this.tell(example, 'leaked_image', `Image ${position} looks the same as one of the training data.`);
    }
    this.progress('comparing', table.length, table.length);
  }

  private async estimate(stages: readonly Stage[]): Promise<TrainingEstimate | null> {
    const estimate = (await this.hooks.estimate?.(this.lists, stages, this.table)) ?? null;
    if (typeof estimate !== 'string') return estimate;
    this.problems.add({
      ...ABOUT_ALL,
      severity: 'warning',
      code: 'estimate_unavailable',
      message: `No estimate: ${estimate}.`,
    });
    return null;
  }

  /** What the model cannot do is refused before anything is trained. */
  private planProblems(stages: readonly Stage[]): boolean {
    const config = readConfig(this.input.baseDir);
    const names = [...expectedWeights(config).keys()];
    let isGood = true;
    for (const [i, stage] of stages.entries()) {
      try {
        planStage(config, names, stage, i, this.input.validation !== undefined);
      } catch (error) {
        if (!(error instanceof StageError)) throw error;
        isGood = false;
        this.problems.add({
          ...ABOUT_ALL,
          severity: 'error',
          code: 'unsupported_parameter',
          message: `${error.message}.`,
        });
      }
    }
    return isGood;
  }

  /** Stages with a bound of their own leave out what is longer; said here, with the lengths. */
  private warnOfOverlong(stages: readonly Stage[]): void {
    for (const [data, list] of this.lists.slice(0, this.input.training.length).entries()) {
      const bounds = stages.filter((stage) => stage.data === data).map(({ max_tokens }) => max_tokens ?? Infinity);
      const bound = Math.min(Infinity, ...bounds);
      if (bound >= this.front.contextTokens) continue;
      for (let record = 0; record < list.store.records; record++) {
        const e = list.first + record;
        const tokens = this.table.tokens(e);
        if (tokens > bound)
          this.tell(
            e,
            'over_max_tokens',
            `The example takes ${tokens} tokens, max_tokens is ${bound}: the stage leaves it out.`,
          );
      }
    }
  }

  private tell(example: number, code: string, message: string): void {
    const list = this.table.list(example);
    const { data } = this.lists[list]!;
    const file = this.table.file(example);
    this.problems.add({
      severity: 'warning',
      code,
      message,
      data: list === this.input.training.length ? 'validation' : list,
      subset: data.spec.files.length > 1 ? subsetName(data, file) : null,
      line: this.table.line(example),
      message_index: null,
      part_index: null,
      param: null,
    });
  }

  private async recordOf(example: number): Promise<DataExample> {
    const list = this.lists[this.table.list(example)]!;
    return await list.store.record(example - list.first);
  }

  /** With the file, where there are several. */
  private lineOf(example: number): string {
    const list = this.lists[this.table.list(example)] ?? null;
    const line = this.table.line(example);
    // The list that is being read is not among them yet.
    const data = list?.data ?? allData(this.input)[this.table.list(example)];
    return data === undefined || data.spec.files.length === 1
      ? String(line)
      : `${line} of ${subsetName(data, this.table.file(example))}`;
  }

  private leftOut(): LeftOut {
    return this.bad.map(({ data, file, lines }) => {
      const spec = data === 'validation' ? this.input.validation : this.input.training[data];
      return {
        data,
        file: spec?.spec.files[file]?.file_id ?? '',
        lines: [...lines].sort((a, b) => a - b),
      };
    });
  }

  private listedLeftOut(leftOut: LeftOut): DatasetReport['left_out'] {
    const names = new Set(leftOut.map(({ data }) => data));
    return [...names].map((data) => {
      const lines = leftOut.filter((entry) => entry.data === data).flatMap((entry) => entry.lines);
      return { data, lines: lines.slice(0, D.maxListedLines), total: lines.length };
    });
  }

  private progress(phase: ValidateProgress['phase'], done: number, total: number): void {
    this.hooks.onProgress?.({ phase, done, total, problems: this.problems.count });
  }
}

/** A problem of no line. */
const ABOUT_ALL = { data: 0, subset: null, line: null, message_index: null, part_index: null, param: null } as const;

function allData({ training, validation }: ValidateInput): FineTuneData[] {
  return [...training, ...(validation === undefined ? [] : [validation])];
}

function bytesOf(files: FineTuneData['spec']['files']): number {
  return files.reduce((sum, { file }) => sum + file.bytes, 0);
}

type Place = { message_index: number; part_index: number; param: string };

/** Where each picture stands, by its place among the example's. */
function placesOf(messages: readonly Message[]): Map<number, Place> {
  const places = new Map<number, Place>();
  for (const [m, { parts }] of messages.entries())
    for (const [p, part] of parts.entries())
      if (part.type === 'image')
        places.set(part.image, { message_index: m, part_index: p, param: `messages[${m}].content[${p}]` });
  return places;
}

/** A fault's sentence with the place in front, whoever wrote it. */
function named(message: string, param = 'image'): string {
  return message.startsWith('image: ') ? `${param}: ${message.slice('image: '.length)}` : `${param}: ${message}`;
}
