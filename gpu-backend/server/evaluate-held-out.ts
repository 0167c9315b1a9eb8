/**
 * Asks models held-out questions through this backend's own engine, behind everything that somebody waits for: for checkpoints of a job, and for the gate of a
 * schedule. One reader, one way of asking, one score.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AskedHow, DataSpec, GenerateMessage, GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelService } from '../engine/service.ts';
import { type VariantsAsked, variantsFor } from '../eval/controls.ts';
import { groupOf, referenceOf, scoreHeldOut } from '../eval/held-out.ts';
import type { EvalItem, EvalRecord, EvalVariant } from '../eval/task.ts';
import { sha256Hex } from '../io/digest.ts';
import type { DataExample } from '../train/data/example.ts';
import { importData } from '../train/data/import.ts';
import type { ExampleStore, FetchImage } from '../train/data/store.ts';
import type { EdgeClient } from './edge-client.ts';
import { TaskFailure } from './task-runner.ts';

/** Questions under way at once: enough to fill a batch, few beside what somebody waits for. */
const AT_ONCE = 8;
/** A full engine is asked again after this pause, doubled up to the most. */
const PAUSE_MS = 250;
const MAX_PAUSE_MS = 5_000;
const MAX_TRIES = 40;
/** Tokens beyond the reference's own within which an answer may still equal it: quotation marks, a full stop. */
const SLACK_TOKENS = 8;

export interface HeldOutSource {
  readonly spec: DataSpec;
  /** Field that named the data, for errors. */
  readonly param: string;
  /** Folder of this work alone. */
  readonly workDir: string;
  readonly edge: Pick<EdgeClient, 'download'>;
  readonly fetchImage: FetchImage;
  readonly signal: AbortSignal;
}

export interface AskedBy {
  readonly service: ModelService;
  readonly tenant: string;
  /** Begins the ids of its requests. */
  readonly id: string;
  readonly how: Omit<AskedHow, 'confidence'>;
  readonly signal: AbortSignal;
}

/** A held-out file that has been read whole, and the questions in it. */
export class HeldOut {
  private constructor(
    private readonly store: ExampleStore,
    private readonly param: string,
  ) {}

  /** @throws TaskFailure for a file that is not right: who leaves out what it cannot read would decide by something else than was asked for */
  static async open({ spec, param, workDir, edge, fetchImage, signal }: HeldOutSource): Promise<HeldOut> {
    const paths: string[] = [];
    for (const { file } of spec.files) {
      const path = join(workDir, 'files', file.sha256);
      const isThere = await stat(path).then(
        () => true,
        () => false,
      );
      if (!isThere) await edge.download(`/internal/files/${encodeURIComponent(file.id)}/content`, path, file);
      paths.push(path);
    }
    const wrong: string[] = [];
    let count = 0;
    const { store } = await importData(spec, paths, join(workDir, 'held-out'), {
      signal,
      data: 'held_out',
      fetchImage,
      onProblem: ({ severity, line, message }) => {
        if (severity !== 'error') return;
        count++;
        const said = message.replace(/\.$/, '');
        if (wrong.length < 3) wrong.push(line === null ? said : `line ${line}: ${said}`);
      },
    });
    if (count > 0 || store.length === 0) {
      await store.close();
      const errors = `${count} ${count === 1 ? 'error' : 'errors'}: ${wrong.join('; ')}${count > wrong.length ? '; …' : '.'}`;
      if (count > 0) throw new TaskFailure('invalid_training_file', `The held-out file has ${errors}`, param);
      throw new TaskFailure('empty_file', 'The held-out file has no examples.', param);
    }
    return new HeldOut(store, param);
  }

  async close(): Promise<void> {
    await this.store.close();
  }

  /** Records that are asked, the first so many. */
  async records(maxExamples: number | null): Promise<EvalRecord[]> {
    const count = Math.min(this.store.length, maxExamples ?? this.store.length);
    const records: EvalRecord[] = [];
    // A mixture may take a line several times.
    const times = new Map<string, number>();
    for (let i = 0; i < count; i++) {
      const record = await this.#record(i);
      const seen = times.get(record.id) ?? 0;
      times.set(record.id, seen + 1);
      records.push(seen === 0 ? record : { ...record, id: `${record.id}, time ${seen + 1}` });
    }
    return records;
  }

  /** A model's answer to every question, in every way in which it is asked: greedily, or the most likely of the options. */
  async ask(model: string, records: readonly EvalRecord[], by: AskedBy): Promise<EvalItem[]> {
    const asked: VariantsAsked = {
      orders: by.how.imageOrders,
      rotate: false,
      controls: by.how.textOnly ? ['text-only'] : [],
    };
    const questions = records.flatMap((record, at) =>
      variantsFor(record, asked, {}).map((variant) => ({ record, at, variant })),
    );
    const items: EvalItem[] = [];
    await each(questions.length, async (i) => {
      const { record, at, variant } = questions[i] as (typeof questions)[number];
      const example = await this.store.get(at);
      const said = await this.#answer(model, example, variant, `${by.id}-${i}`, by);
      const reference = record.answers[0] ?? '';
      items[i] = {
        record: record.id,
        group: record.group,
        category: record.category,
        variant,
        answer: said.text,
        ...scoreHeldOut(said.text, reference),
        reference,
        ...(said.logprobs === undefined ? {} : { logprobs: said.logprobs }),
      };
    });
    return items;
  }

  async #record(i: number): Promise<EvalRecord> {
    const { store } = this;
    const example = await store.get(i);
    const reference = referenceOf(example);
    if (reference === null)
      throw new TaskFailure(
        'invalid_training_file',
        `Held-out line ${example.line}: expected an assistant turn at its end, the answer that counts.`,
        this.param,
      );
    const asked = example.messages.at(-2)?.parts ?? [];
    return {
      id: `${example.file === 0 ? '' : `file ${example.file + 1} `}line ${example.line}`,
      group: groupOf(example),
      category: example.skill ?? example.subset,
      images: example.images.map((image) => ({ sha256: digestOf(image), bytes: () => store.readImage(image) })),
      question: asked.map((part) => (part.type === 'text' ? part.text : '<image>')).join(''),
      options: [],
      answers: [reference],
      fields: {},
    };
  }

  async #answer(
    model: string,
    example: DataExample,
    { control, imageOrder }: EvalVariant,
    requestId: string,
    { service, tenant, how, signal }: AskedBy,
  ): Promise<{ text: string; logprobs?: number[] }> {
    const isBlind = control === 'text-only';
    const references = isBlind ? [] : example.images.map((own, i) => example.images[imageOrder?.[i] ?? i] ?? own);
    const blobs = await Promise.all(references.map((reference) => this.store.readImage(reference)));
    const request: GenerateRequest = {
      requestId,
      ...(/^[0-9a-f]{32}$/.test(tenant) ? { tenant } : {}),
      model,
      messages: messagesOf(example, isBlind),
      sampling: { maxTokens: null, temperature: 0, topP: 1, stop: [] },
      priority: 'batch',
      deadlineMs: LIMITS.request.deadlineMs,
    };
    const ask = async () => {
      if (how.options !== null) return await mostLikely(service, request, how.options, blobs, signal);
      const options = [referenceOf(example) ?? ''];
      const { optionTokens } = await service.count({ ...request, options }, blobs);
      const maxTokens = (optionTokens?.[0] ?? 0) + SLACK_TOKENS;
      const sampling = { ...request.sampling, maxTokens };
      return { text: await wholeAnswer(service, { ...request, sampling }, blobs, signal) };
    };
    for (let attempt = 1; ; attempt++) {
      signal.throwIfAborted();
      try {
        return await ask();
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof ApiError)) throw error;
        const passes = error.status >= 500 || error.status === 429;
        if (!passes)
          throw new TaskFailure(error.code, `Held-out line ${example.line}, model ${model}: ${error.message}`);
        if (attempt === MAX_TRIES) throw error;
        await sleep(Math.min(PAUSE_MS * 2 ** (attempt - 1), MAX_PAUSE_MS), undefined, { signal });
      }
    }
  }
}

/** The digest that a reference is, or one of the reference where the bytes lie elsewhere: pictures are told apart by it, and no more. */
function digestOf(reference: string): string {
  const own = /^sha256:([0-9a-f]{64})$/.exec(reference)?.[1];
  return own ?? sha256Hex(reference);
}

/** The conversation without its last turn. */
function messagesOf(example: DataExample, isBlind: boolean): GenerateMessage[] {
  return example.messages.slice(0, -1).map(({ role, parts }) => {
    const seen = parts.filter((part) => part.type === 'text' || !isBlind);
    return {
      role,
      parts:
        seen.length === 0
          ? [{ type: 'text' as const, text: '' }]
          : seen.map((part) => (part.type === 'text' ? part : { type: 'image' as const, blob: part.image })),
    };
  });
}

async function mostLikely(
  service: ModelService,
  request: GenerateRequest,
  options: readonly string[],
  blobs: readonly Uint8Array[],
  signal: AbortSignal,
): Promise<{ text: string; logprobs: number[] }> {
  const { scores } = await service.score({ ...request, options: [...options] }, blobs, signal);
  const logprobs = scores.map(({ logprob }) => logprob);
  const best = logprobs.indexOf(Math.max(...logprobs));
  return { text: options[best] ?? '', logprobs };
}

async function wholeAnswer(
  service: ModelService,
  request: GenerateRequest,
  blobs: readonly Uint8Array[],
  signal: AbortSignal,
): Promise<string> {
  let text = '';
  for await (const event of service.generate(request, blobs, signal)) {
    if (event.type === 'delta') text += event.text;
    else if (event.type === 'error')
      throw new ApiError('backend_failed', event.error.message, { status: event.error.status });
  }
  // An answer that was broken off must not look like a short one.
  signal.throwIfAborted();
  return text;
}

/** Runs `work` for 0 … count − 1, so many at once; the first failure ends it. */
async function each(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  let hasFailed = false;
  const worker = async () => {
    while (next < count && !hasFailed) {
      try {
        await work(next++);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}
