import { mkdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { benchmarkPath } from '../../../shared/contract/evalFiles.ts';
import type { EvalItemReport, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { applyVariant, Strangers, type VariantsAsked, variantKey, variantsFor } from '../../eval/controls.ts';
import type { AskedMessage, AskedPart } from '../../eval/graders/conversation.ts';
import { taskNamed } from '../../eval/registry.ts';
import { formPrompt, type PromptForm } from '../../eval/run/prompt-form.ts';
import { evalSpec } from '../../eval/run/run.ts';
import type {
  EvalImage,
  EvalItem,
  EvalPrompt,
  EvalRecord,
  EvalRecords,
  EvalSpec,
  EvalTask,
  EvalVariant,
} from '../../eval/task.ts';
import type { EdgeClient } from '../edge-client.ts';
import { TaskFailure } from '../task-runner.ts';
import { type Answered, ItemError } from './evaluate-ask.ts';

type Source = Extract<EvaluateTask['source'], { type: 'benchmark' }>;

/** A fractional score of so much counts as passed. */
const PASSED = 0.5;

/** One question in one way; `index` counts them from 0, in an order that the data and the run fix. */
export interface BenchmarkQuestion {
  readonly index: number;
  readonly variant: EvalVariant;
  readonly record: EvalRecord;
  readonly place: number;
}

/** A benchmark over the client's files, read as it was published. */
export class Benchmark {
  private constructor(
    readonly task: EvalTask,
    readonly records: EvalRecords,
    private readonly asked: VariantsAsked,
    private readonly form: PromptForm,
    private readonly limit: number,
    private readonly strangers: Strangers | null,
  ) {}

  /** @throws TaskFailure for files that are not those of the benchmark */
  static async open(source: Source, edge: EdgeClient, workDir: string): Promise<Benchmark> {
    const { options } = source;
    const folder = join(workDir, 'benchmark');
    await mkdir(folder, { recursive: true });
    for (const file of source.files)
      await edge.download(
        `/internal/files/${encodeURIComponent(file.id)}/content`,
        join(folder, benchmarkPath(file.filename) ?? basename(file.filename)),
        file,
      );
    const task = taskNamed(source.benchmark, options.answer_by === undefined ? {} : { answerBy: options.answer_by });
    const asked: VariantsAsked = {
      orders: options.image_orders ?? 'protocol',
      rotate: options.rotate_options === true,
      controls: options.controls ?? [],
    };
    try {
      const records = await task.open({
        paths: [folder],
        imageFolder: folder,
        ...(options.split === undefined ? {} : { split: options.split }),
        ...(options.max_items === undefined ? {} : { limit: options.max_items }),
      });
      const limit = Math.min(options.max_items ?? records.length, records.length);
      const strangers = asked.controls.includes('shuffled') ? await Strangers.read(records, limit) : null;
      return new Benchmark(task, records, asked, { mode: options.mode ?? 'sequence' }, limit, strangers);
    } catch (error) {
      // What readers throw is about the files, and says which.
      const message = error instanceof Error ? error.message : String(error);
      throw new TaskFailure(
        'invalid_eval_items',
        `${source.benchmark}: ${message.replaceAll(`${folder}/`, '').replaceAll(folder, 'the uploaded files')}`,
        'data_source.file_ids',
      );
    }
  }

  spec(): EvalSpec {
    const { task, records, asked, form, limit } = this;
    return evalSpec({ task, records, asked, form, limit });
  }

  async count(): Promise<number> {
    let count = 0;
    for (let place = 0; place < this.limit; place++)
      count += variantsFor(await this.records.get(place), this.asked, this.task).length;
    return count;
  }

  async *questions(): AsyncGenerator<BenchmarkQuestion, void, undefined> {
    let index = 0;
    for (let place = 0; place < this.limit; place++) {
      const record = await this.records.get(place);
      for (const variant of variantsFor(record, this.asked, this.task))
        yield { index: index++, variant, record, place };
    }
  }

  /** @param ask the model's answer to a conversation whose pictures are at hand */
  async answer(
    { index, variant, record, place }: BenchmarkQuestion,
    model: string,
    ask: (messages: AskedMessage[], prompt: EvalPrompt) => Promise<Answered>,
  ): Promise<EvalItemReport> {
    const stranger =
      variant.control === 'shuffled' && this.strangers !== null
        ? await this.records.get(this.strangers.indexFor(place))
        : undefined;
    const { record: shown, prompt: plain } = await applyVariant(this.task, record, variant, stranger);
    const prompt = formPrompt(plain, this.form);
    const base = {
      line: index,
      datasourceItem: {
        record: record.id,
        variant: variantKey(variant),
        ...(variant as unknown as Readonly<Record<string, unknown>>),
        group: record.group,
        category: record.category,
        question: record.question,
        options: shown.options,
        reference: [...new Set(shown.answers)].join(' | '),
        images: shown.images.map(({ sha256 }) => `sha256:${sha256}`),
      },
    };
    const sampling = { temperature: 0, max_completion_tokens: prompt.maxTokens, top_p: null, seed: null };
    try {
      const answered = await ask(await conversation(prompt), prompt);
      const { score, parsed, rule } = this.task.score(answered.text, shown);
      const passed = score >= PASSED;
      return {
        ...base,
        status: passed ? 'pass' : 'fail',
        results: [
          {
            name: this.task.name,
            type: 'mantis.benchmark',
            passed,
            score,
            sample: { parsed, rule, logprobs: answered.logprobs ?? null },
          },
        ],
        sample: {
          input: [...answered.input],
          output: [{ role: 'assistant', content: answered.text }],
          finish_reason: answered.finishReason,
          model,
          usage: usageOf(answered),
          error: null,
          ...sampling,
        },
        usage: [answered.usage],
      };
    } catch (error) {
      if (!(error instanceof ItemError)) throw error;
      return {
        ...base,
        status: 'error',
        results: [],
        sample: {
          input: [],
          output: [],
          finish_reason: 'error',
          model,
          usage: null,
          error: { code: error.code, message: error.message },
          ...sampling,
        },
        usage: [],
      };
    }
  }

  async close(): Promise<void> {
    await this.records.close();
  }
}

export function usageOf({ usage }: Pick<Answered, 'usage'>) {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    cached_tokens: usage.cachedTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
  };
}

async function conversation(prompt: EvalPrompt): Promise<AskedMessage[]> {
  const parts: AskedPart[] = [];
  for (const part of prompt.parts) {
    if (typeof part === 'string') parts.push({ type: 'text', text: part });
    else parts.push({ type: 'image', reference: await dataUrl(prompt.images[part.image]) });
  }
  const system =
    prompt.system === undefined
      ? []
      : [{ role: 'system' as const, parts: [{ type: 'text' as const, text: prompt.system }] }];
  return [...system, { role: 'user', parts }];
}

async function dataUrl(image: EvalImage | undefined): Promise<string> {
  if (image === undefined) throw new Error('a prompt names a picture that it does not have');
  return `data:image/any;base64,${Buffer.from(await image.bytes()).toString('base64')}`;
}

/** An item of the report, from what was written of it. */
export function itemOf({
  datasourceItem: item,
  results,
  sample,
}: Pick<EvalItemReport, 'datasourceItem' | 'results' | 'sample'>): EvalItem {
  const [result] = results;
  const { parsed, rule, logprobs } = (result?.sample ?? {}) as {
    parsed?: string | null;
    rule?: string;
    logprobs?: number[] | null;
  };
  const { control, leftOut, imageOrder, optionRotation } = item as unknown as EvalVariant;
  return {
    record: String(item.record),
    group: String(item.group),
    category: typeof item.category === 'string' ? item.category : null,
    variant: {
      control,
      ...(leftOut === undefined ? {} : { leftOut }),
      ...(imageOrder === undefined ? {} : { imageOrder }),
      ...(optionRotation === undefined ? {} : { optionRotation }),
    },
    answer: sample.output[0]?.content ?? '',
    parsed: parsed ?? null,
    rule: rule ?? 'no answer',
    score: result?.score ?? 0,
    reference: String(item.reference),
    ...(logprobs == null ? {} : { logprobs }),
    ...(sample.error === null ? {} : { error: sample.error.message }),
  };
}
