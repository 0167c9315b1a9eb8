import type { EvalSampling } from '../../../shared/contract/evals.ts';
import type { EvalItemReport, EvalItemUsage, EvaluateTask } from '../../../shared/contract/evalTask.ts';
import {
  MissingValue,
  parseTemplate,
  type Template,
  type TemplateData,
  templateValue,
} from '../../../shared/contract/evalTemplate.ts';
import { conversationIn, conversationOf, type WriteConversation } from '../../eval/graders/conversation.ts';
import { type Grade, graderOf } from '../../eval/graders/grade.ts';
import { taskFactories, taskNamed } from '../../eval/registry.ts';
import type { EvalImage } from '../../eval/task.ts';
import { type Answered, type Asker, ItemError } from './evaluate-ask.ts';
import { usageOf } from './evaluate-benchmark.ts';
import type { ReadLine } from './evaluate-lines.ts';

type Source = Extract<EvaluateTask['source'], { type: 'lines' }>;

/** A template that is the answer and nothing else. */
const IS_ANSWER = /^\{\{\s*sample\s*\.\s*output_text\s*\}\}$/;

/** Answers and judges items of a client's own data. */
export class ItemJudge {
  readonly #spec: EvaluateTask;
  readonly #source: Source;
  readonly #asker: Asker;
  readonly #signal: AbortSignal;
  readonly #write: WriteConversation | null;
  readonly #grades: readonly Grade[];
  /** Of criteria that judge an answer as it is by a benchmark's score: the answers that they call right, and the grader itself. */
  readonly #keys: readonly {
    readonly param: string;
    readonly answers: Template;
    readonly grade: Grade;
    readonly name: string;
  }[];

  constructor(spec: EvaluateTask, source: Source, asker: Asker, signal: AbortSignal) {
    this.#spec = spec;
    this.#source = source;
    this.#asker = asker;
    this.#signal = signal;
    const { prompt } = source;
    this.#write =
      prompt === null
        ? null
        : prompt.type === 'template'
          ? conversationOf(prompt.template, ['item'])
          : conversationIn(prompt.item_reference);
    const benchmarks = (name: string) => (Object.hasOwn(taskFactories, name) ? taskNamed(name) : null);
    this.#grades = spec.criteria.map((grader) => graderOf(grader, benchmarks));
    this.#keys = spec.criteria.flatMap((grader, i) => {
      const grade = this.#grades[i];
      if (grader.type !== 'mantis.benchmark' || grade === undefined || !IS_ANSWER.test(grader.input)) return [];
      const param = `testing_criteria[${i}].answers`;
      return [{ param, answers: parseTemplate(grader.answers), grade, name: grader.benchmark }];
    });
  }

  /**
   * Whether an item's own answers could ever be right: a benchmark whose answers are letters gives nothing for the text of the right option.
   * @returns what is wrong, null where nothing is
   */
  async keyProblem(item: unknown): Promise<string | null> {
    for (const { param, answers, grade, name } of this.#keys) {
      let keys: unknown;
      try {
        keys = templateValue(answers, { item });
      } catch (error) {
        // It is this item's alone, and told with its result.
        if (error instanceof MissingValue) continue;
        throw error;
      }
      const texts = (Array.isArray(keys) ? keys : [keys]).filter((key) => typeof key === 'string');
      if (texts.length === 0) continue;
      let best = 0;
      for (const text of texts) {
        const data: TemplateData = { item, sample: { output_text: text } };
        const { score, error } = await grade(data, { ask: () => Promise.reject(new Error('no judge')) }, this.#signal);
        best = Math.max(best, error === undefined ? score : 1);
      }
      if (best === 0)
        return `${param}: expected answers that ${name} scores as right (letters where it has options: A is the first), received ${JSON.stringify(texts.slice(0, 3).map((text) => text.slice(0, 60)))}, which it gives 0 themselves`;
    }
    return null;
  }

  /** @param requestId begins the ids of its requests */
  async judge(line: ReadLine, requestId: string): Promise<EvalItemReport> {
    const usage: EvalItemUsage[] = [];
    const { sampling } = this.#source;
    const base = { line: line.index, datasourceItem: await this.#withoutPictures(line.item) };
    let answered: Answered | null;
    let sample: Record<string, unknown>;
    try {
      answered = await this.#answer(line, requestId);
      sample = answered === null ? given(line.sample ?? {}) : sampleOf(answered, this.#spec.model ?? '');
    } catch (error) {
      if (!(error instanceof ItemError) && !(error instanceof MissingValue)) throw error;
      const code = error instanceof ItemError ? error.code : 'invalid_eval_items';
      return {
        ...base,
        status: 'error',
        results: [],
        sample: { ...this.#shown(null, {}), finish_reason: 'error', error: { code, message: error.message } },
        usage,
      };
    }
    if (answered !== null) usage.push(answered.usage);
    const data: TemplateData = { item: line.item, sample };
    const results = [];
    for (const [i, grade] of this.#grades.entries()) {
      let asked = 0;
      const ask = async ({ model, messages, sampling: how, form }: Parameters<Parameters<Grade>[1]['ask']>[0]) => {
        const constraint =
          form.type === 'choice'
            ? { type: 'choice' as const, choices: [...form.choices] }
            : { type: 'json_schema' as const, schema: form.schema };
        const reply = await this.#asker.ask({
          requestId: `${requestId}-${i}-${asked++}`,
          model,
          messages,
          sampling: how,
          constraint,
        });
        usage.push(reply.usage);
        return { text: reply.text, finishReason: reply.finishReason, ...reply.usage };
      };
      results.push(await grade(data, { ask }, this.#signal));
    }
    const isError = results.some(({ error }) => error !== undefined);
    const status = isError ? 'error' : results.every(({ passed }) => passed) ? 'pass' : 'fail';
    return { ...base, status, results, sample: this.#shown(answered, sample, sampling), usage };
  }

  /** Pictures of a line's question, in order; none where it cannot be asked (any more). */
  async pictures(line: ReadLine): Promise<EvalImage[]> {
    try {
      const references = (this.#write?.({ item: line.item }) ?? []).flatMap(({ parts }) =>
        parts.flatMap((part) => (part.type === 'image' ? [part.reference] : [])),
      );
      const found = await Promise.all(references.map((reference) => this.#asker.picture(reference)));
      return found.map(({ sha256, bytes }) => ({ sha256, bytes: async () => bytes }));
    } catch (error) {
      // A run that was given up has its report without those that would have to be fetched.
      if (error instanceof ItemError || error instanceof MissingValue || this.#signal.aborted) return [];
      throw error;
    }
  }

  async #answer(line: ReadLine, requestId: string): Promise<Answered | null> {
    const { model } = this.#spec;
    if (this.#write === null || model === null) return null;
    const messages = this.#write({ item: line.item });
    const { sampling } = this.#source;
    const constraint = constraintOf(sampling);
    return await this.#asker.ask({
      requestId,
      model,
      messages,
      sampling,
      ...(constraint === undefined ? {} : { constraint }),
    });
  }

  #shown(
    answered: Answered | null,
    sample: Record<string, unknown>,
    sampling: EvalSampling = this.#source.sampling,
  ): EvalItemReport['sample'] {
    const text = answered?.text ?? (typeof sample.output_text === 'string' ? sample.output_text : null);
    return {
      input: [...(answered?.input ?? [])],
      output: text === null ? [] : [{ role: 'assistant', content: text }],
      finish_reason: answered?.finishReason ?? (text === null ? '' : 'stop'),
      model: this.#spec.model ?? (typeof sample.model === 'string' ? sample.model : ''),
      usage: answered === null ? null : usageOf(answered),
      error: null,
      temperature: this.#write === null ? null : (sampling.temperature ?? 0),
      max_completion_tokens: sampling.max_completion_tokens ?? sampling.max_completions_tokens ?? null,
      top_p: sampling.top_p ?? null,
      seed: sampling.seed ?? null,
    };
  }

  /** Pictures in data URLs as their digests; what is none stays as it is. */
  async #withoutPictures(item: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>> {
    const digests = new Map<string, string>();
    const find = async (value: unknown): Promise<void> => {
      if (typeof value === 'string' && value.startsWith('data:image/')) {
        const picture = await this.#asker.picture(value).catch(() => null);
        digests.set(value, picture === null ? `${value.slice(0, 40)}…` : `sha256:${picture.sha256}`);
      } else if (typeof value === 'object' && value !== null) for (const one of Object.values(value)) await find(one);
    };
    await find(item);
    if (digests.size === 0) return item;
    const text = JSON.stringify(item, (_, value: unknown) =>
      typeof value === 'string' ? (digests.get(value) ?? value) : value,
    );
    return JSON.parse(text) as Record<string, unknown>;
  }
}

function constraintOf({ response_format: format }: EvalSampling) {
  if (format?.type === 'json_object') return { type: 'json_object' as const };
  if (format?.type === 'json_schema') return { type: 'json_schema' as const, schema: format.json_schema.schema };
  return undefined;
}

/** What `{{sample.…}}` finds of an answer: OpenAI's names. */
function sampleOf({ text, finishReason, usage }: Answered, model: string): Record<string, unknown> {
  return {
    ...withJson(text),
    model,
    output: [{ role: 'assistant', content: text }],
    choices: [{ index: 0, message: { role: 'assistant', content: text }, finish_reason: finishReason }],
    finish_reason: finishReason,
    usage: usageOf({ usage }),
  };
}

function given(sample: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return { ...(typeof sample.output_text === 'string' ? withJson(sample.output_text) : {}), ...sample };
}

function withJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null
      ? { output_text: text, output_json: value }
      : { output_text: text };
  } catch {
    return { output_text: text };
  }
}
