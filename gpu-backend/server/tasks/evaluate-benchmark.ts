import type { EvalItemReport, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import { variantKey } from '../../eval/controls.ts';
import type { AskedMessage, AskedPart } from '../../eval/graders/conversation.ts';
import type { EvalItem, EvalTask, EvalVariant } from '../../eval/task.ts';
import type { TaskContext } from '../task-runner.ts';
import { LaidBenchmark, type LaidOut, type LaidPrompt, type LaidQuestion } from './benchmark/laid.ts';
import { layOutApart } from './benchmark/lay-out-apart.ts';
import { scoringTask } from './benchmark/task.ts';
import { type Answered, ItemError } from './evaluate-ask.ts';

type Source = Extract<EvaluateTask['source'], { type: 'benchmark' }>;

/** A fractional score of so much counts as passed. */
const PASSED = 0.5;

/** A benchmark over the client's files, laid out: what is left is to ask, and to score the answers. */
export class Benchmark {
  private constructor(
    readonly laid: LaidOut,
    readonly on: LaidBenchmark,
    private readonly task: EvalTask,
  ) {}

  /** @throws TaskFailure for files that are not those of the benchmark, and wishes that they cannot do */
  static async open(source: Source, context: Pick<TaskContext, 'edge' | 'workDir' | 'signal'>): Promise<Benchmark> {
    const { folder, ...laid } = await layOutApart(source, context);
    return new Benchmark(laid, await LaidBenchmark.open(folder), scoringTask(source.benchmark, source.options));
  }

  /** @param ask the model's answer to a conversation whose pictures are at hand */
  async answer(
    { index, variant, isCounted, criterion, question, shown, prompt, fault }: LaidQuestion,
    model: string,
    ask: (messages: AskedMessage[], prompt: LaidPrompt) => Promise<Answered>,
  ): Promise<EvalItemReport> {
    const base = {
      line: index,
      ...(isCounted ? {} : { isCounted }),
      datasourceItem: {
        record: shown.id,
        variant: variantKey(variant),
        ...(variant as unknown as Readonly<Record<string, unknown>>),
        group: shown.group,
        category: shown.category,
        question,
        options: shown.options,
        reference: [...new Set(shown.answers)].join(' | '),
        images: shown.images.map((name) => `sha256:${name}`),
      },
    };
    const sampling = { temperature: 0, max_completion_tokens: prompt?.maxTokens ?? null, top_p: null, seed: null };
    try {
      if (prompt === undefined) throw new ItemError('invalid_eval_items', fault ?? 'the question cannot be asked');
      const answered = await ask(await this.#conversation(prompt), prompt);
      const { score, parsed, rule } = this.task.score(answered.text, { ...shown, images: [] });
      const passed = score >= PASSED;
      return {
        ...base,
        status: passed ? 'pass' : 'fail',
        results: [
          {
            name: criterion,
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
    await this.on.close();
  }

  async #conversation({ system, parts, images }: LaidPrompt): Promise<AskedMessage[]> {
    const asked: AskedPart[] = [];
    for (const part of parts) {
      if (typeof part === 'string') asked.push({ type: 'text', text: part });
      else {
        const name = images[part.image];
        if (name === undefined) throw new Error('a prompt names a picture that it does not have');
        const bytes = Buffer.from(await this.on.image(name).bytes());
        asked.push({ type: 'image', reference: `data:image/any;base64,${bytes.toString('base64')}` });
      }
    }
    const first =
      system === undefined ? [] : [{ role: 'system' as const, parts: [{ type: 'text' as const, text: system }] }];
    return [...first, { role: 'user', parts: asked }];
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
