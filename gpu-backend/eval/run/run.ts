/**
 * Asks a model the questions of a task: every record in every way that was asked for, many at once. What was answered is kept as it comes, so that a run that is
 * killed goes on where it was and ends with the same items.
 */
import {
  applyVariant,
  asPublished,
  type Strangers,
  type VariantsAsked,
  variantKey,
  variantsFor,
  variantsJson,
} from '../controls.ts';
import {
  type EvalAnswer,
  type EvalItem,
  type EvalModel,
  type EvalPart,
  type EvalPrompt,
  type EvalRecord,
  type EvalRecords,
  type EvalSpec,
  type EvalTask,
  type EvalVariant,
  specHash,
} from '../task.ts';
import { type AnswerCache, answerKey } from './answer-cache.ts';
import { itemKey } from './item-file.ts';
import { ModelUnusable } from './model-unusable.ts';
import { type Askable, requireAnswerable, requireAskable } from './preflight.ts';
import { formJson, formPrompt, type PromptForm } from './prompt-form.ts';
import { RunFolder } from './run-folder.ts';
import { Turnstile } from './turnstile.ts';

export interface EvalRunOptions {
  readonly task: EvalTask;
  readonly records: EvalRecords;
  readonly model: EvalModel;
  /** Default: as the benchmark asks. */
  readonly asked?: VariantsAsked;
  /** Default: pictures one by one, the prompt as the task makes it. */
  readonly form?: PromptForm;
  /** Reads answers where the task's publishers let a model read them. Default: the task's rules alone. */
  readonly judge?: EvalModel;
  /** Folder of the run; the same one again goes on. Default: nothing is kept. */
  readonly out?: string;
  /** Closed by the caller. Default: every question is asked. */
  readonly cache?: AnswerCache;
  /** Only the first so many records. */
  readonly limit?: number;
  /** What `partOf` says of the records. Default: they are the whole benchmark, or it is not known. */
  readonly part?: EvalPart | null;
  /** Share of the questions that may stay without an answer, and 3 in any case unless it is 0; more end the run, as when there is no answer at all. Default 0.05. */
  readonly maxErrorShare?: number;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: EvalProgress) => void;
}

export interface EvalProgress {
  readonly done: number;
  /** Questions in all. */
  readonly total: number;
  /** Of those done: found in the run's folder, found in the cache, without an answer. */
  readonly resumed: number;
  readonly fromCache: number;
  readonly errors: number;
}

export interface EvalRunResult {
  readonly spec: EvalSpec;
  readonly hash: string;
  /** In the order of records and variants, whatever the order of the answers. */
  readonly items: readonly EvalItem[];
  /** How this start of the run came by its items: no part of what is reproduced. */
  readonly counts: EvalProgress;
}

/** Too many questions without an answer, by a model or of a task that does not work. */
export class TooManyErrors extends Error {
  override readonly name = 'TooManyErrors';
}

export const DEFAULT_MAX_ERROR_SHARE = 0.05;
/** So many may fail where that is more than the share: one content filter must not end a trial of twelve questions. */
const MIN_ERRORS = 3;
const SEQUENCE: PromptForm = { mode: 'sequence' };
/** Of an item's `error`. */
const MAX_ERROR_CHARS = 500;

/** What the hash of a run covers. */
export function evalSpec({
  task,
  records,
  asked = asPublished,
  form = SEQUENCE,
  judge,
  limit,
  part = null,
}: Pick<EvalRunOptions, 'task' | 'records' | 'asked' | 'form' | 'judge' | 'limit' | 'part'>): EvalSpec {
  const { name, version, protocol, aggregate } = task;
  return {
    task: name,
    version,
    protocol,
    aggregate,
    data: {
      digest: records.digest,
      records: Math.min(limit ?? records.length, records.length),
      ...(part === null ? {} : { part }),
    },
    mode: form.mode,
    variants: {
      ...variantsJson(asked, task),
      ...formJson(form),
      ...(judge === undefined ? {} : { judge: judge.identity }),
    },
  };
}

/**
 * Runs to the end. Questions that a folder holds without an answer are asked again.
 * @throws NotAskable before anything is asked; TooManyErrors; ModelUnusable; RunFolderError; the signal's reason; what reading a record throws
 */
export async function runEval(options: EvalRunOptions): Promise<EvalRunResult> {
  const { task, records, model, asked = asPublished } = options;
  requireAnswerable(task, model);
  const spec = evalSpec(options);
  const askable = await requireAskable(task, records, asked, spec.data.records);
  const { name, identity } = model;
  const folder =
    options.out === undefined ? null : await RunFolder.open(options.out, { spec, model: { name, identity } });
  try {
    const run = new Run(options, spec, folder, askable);
    const items = await run.toTheEnd();
    await folder?.items.flush();
    return { spec, hash: specHash(spec), items, counts: run.progress() };
  } finally {
    await folder?.close();
  }
}

class Run {
  readonly #o: EvalRunOptions;
  readonly #spec: EvalSpec;
  readonly #folder: RunFolder | null;
  readonly #askable: Askable;
  readonly #stop = new AbortController();
  readonly #items: EvalItem[] = [];
  readonly #asking = new Map<string, Promise<EvalAnswer>>();
  readonly #counts = { done: 0, resumed: 0, fromCache: 0, errors: 0 };
  #failure: unknown = null;

  constructor(options: EvalRunOptions, spec: EvalSpec, folder: RunFolder | null, askable: Askable) {
    this.#o = options;
    this.#spec = spec;
    this.#folder = folder;
    this.#askable = askable;
  }

  progress(): EvalProgress {
    return { ...this.#counts, total: this.#askable.total };
  }

  async toTheEnd(): Promise<readonly EvalItem[]> {
    const { task, records, model, asked = asPublished, signal } = this.#o;
    const count = this.#spec.data.records;
    const leave = () => this.#fail(signal?.reason);
    if (signal?.aborted) leave();
    signal?.addEventListener('abort', leave);
    const turnstile = new Turnstile(model.atOnce);
    const seen = new Set<string>();
    try {
      const { strangers } = this.#askable;
      for (let index = 0; index < count && !this.#stop.signal.aborted; index++) {
        const record = await records.get(index);
        const variants = variantsFor(record, asked, task);
        for (const variant of variants) {
          const place = this.#items.length;
          const key = itemKey(record.id, variant);
          if (seen.has(key))
            throw new Error(
              `task ${task.name}: two records, or two variants of one, are ${record.id}, ${variantKey(variant)}; ids must be unique`,
            );
          seen.add(key);
          const found = this.#folder?.items.found.get(key);
          if (found !== undefined && found.error === undefined) {
            this.#items[place] = found;
            this.#count('resumed');
            continue;
          }
          // Holds the place until the answer comes.
          this.#items[place] = itemOf(record, variant);
          await turnstile.enter();
          if (this.#stop.signal.aborted) {
            turnstile.leave();
            break;
          }
          void this.#ask(index, record, variant, strangers)
            .then((item) => this.#keep(place, item))
            .catch((error: unknown) => this.#fail(error))
            .finally(() => turnstile.leave());
        }
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      await turnstile.empty();
      signal?.removeEventListener('abort', leave);
    }
    if (this.#stop.signal.aborted) throw this.#failure;
    return this.#items;
  }

  async #ask(index: number, record: EvalRecord, variant: EvalVariant, strangers: Strangers | null): Promise<EvalItem> {
    const { task, records, model, judge, form = SEQUENCE } = this.#o;
    const stranger =
      variant.control === 'shuffled' && strangers !== null ? await records.get(strangers.indexFor(index)) : undefined;
    const { record: shown, prompt } = await applyVariant(task, record, variant, stranger);
    try {
      const { answer, isCached } = await this.#answer(model, formPrompt(prompt, form));
      const question = judge === undefined ? null : (task.extraction?.(answer.text, shown) ?? null);
      const reply = question === null || judge === undefined ? null : (await this.#answer(judge, question)).answer;
      const { score, parsed, rule } = task.score(reply?.text ?? answer.text, shown);
      if (isCached) this.#counts.fromCache++;
      return {
        ...itemOf(shown, variant),
        answer: answer.text,
        parsed,
        rule,
        score,
        ...(answer.logprobs === undefined ? {} : { logprobs: answer.logprobs.map(rounded) }),
        ...(answer.usage === undefined ? {} : { usage: answer.usage }),
        ...(reply === null ? {} : { extracted: reply.text }),
      };
    } catch (error) {
      if (this.#stop.signal.aborted || error instanceof ModelUnusable) throw error;
      const message = error instanceof Error ? error.message : String(error);
      return { ...itemOf(shown, variant), error: message.slice(0, MAX_ERROR_CHARS) };
    }
  }

  /** Equal questions under way are asked once. */
  async #answer(model: EvalModel, prompt: EvalPrompt): Promise<{ answer: EvalAnswer; isCached: boolean }> {
    const { cache } = this.#o;
    const key = answerKey(model, prompt);
    const known = await cache?.get(key);
    if (known !== undefined && known !== null) return { answer: known, isCached: true };
    const under = this.#asking.get(key);
    if (under !== undefined) return { answer: await under, isCached: false };
    const asking = model.answer(prompt, this.#stop.signal);
    this.#asking.set(key, asking);
    try {
      const answer = await asking;
      cache?.put(key, answer);
      return { answer, isCached: false };
    } finally {
      this.#asking.delete(key);
    }
  }

  #keep(place: number, item: EvalItem): void {
    this.#items[place] = item;
    this.#folder?.items.append(item);
    if (item.error !== undefined) {
      this.#counts.errors++;
      const { total } = this.#askable;
      const share = this.#o.maxErrorShare ?? DEFAULT_MAX_ERROR_SHARE;
      const least = share === 0 ? 0 : Math.min(MIN_ERRORS, total - 1);
      const most = Math.max(Math.floor(share * total), least);
      if (this.#counts.errors > most)
        throw new TooManyErrors(
          `${this.#counts.errors} of ${total} questions stayed without an answer, ${most} ${most === 1 ? 'is' : 'are'} let pass (--max-errors ${share}${least === 0 ? '' : `, and ${least} in any case`}); the last one, ${item.record}: ${item.error}`,
        );
    }
    this.#count();
  }

  #count(how?: 'resumed'): void {
    this.#counts.done++;
    if (how !== undefined) this.#counts[how]++;
    this.#o.onProgress?.(this.progress());
  }

  /** The first failure ends the run: questions under way are given up, and it is thrown once they are. */
  #fail(error: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#failure = error;
    this.#stop.abort(error);
  }
}

/** An item as it is before its answer; what remains of it is one without. */
function itemOf(record: EvalRecord, variant: EvalVariant): EvalItem {
  return {
    record: record.id,
    group: record.group,
    category: record.category,
    variant,
    answer: '',
    parsed: null,
    rule: 'no answer',
    score: 0,
    reference: [...new Set(record.answers)].join(' | '),
  };
}

/** Digits beyond these are the machine's and not the model's. */
function rounded(logprob: number): number {
  return Math.round(logprob * 1e6) / 1e6;
}
