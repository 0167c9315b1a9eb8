/** Testing criteria: from a grader's words to a function that judges one item. Nothing here knows a model; judges are asked through the caller. */

import { type Formula, FormulaError, parseFormula } from '../../../shared/contract/evalFormula.ts';
import type { EvalResult, EvalSampling, Grader, SimpleGrader } from '../../../shared/contract/evals.ts';
import {
  MissingValue,
  parseTemplate,
  renderTemplate,
  type Template,
  type TemplateData,
  templateValue,
} from '../../../shared/contract/evalTemplate.ts';
import type { EvalRecord, EvalTask, Json } from '../task.ts';
import { type AskedMessage, conversationOf } from './conversation.ts';
import { similarity } from './similarity.ts';

/** One question to a judge. `form`: its answer is one of these, or JSON by this schema. */
export interface JudgeRequest {
  readonly model: string;
  readonly messages: readonly AskedMessage[];
  readonly sampling: EvalSampling;
  readonly form:
    | { readonly type: 'choice'; readonly choices: readonly string[] }
    | { readonly type: 'json_schema'; readonly schema: Readonly<Record<string, unknown>> };
}

export interface JudgeAnswer {
  readonly text: string;
  readonly finishReason: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cachedTokens: number;
}

export interface GradeContext {
  /** @throws where there is no answer: the item has no verdict then */
  ask(request: JudgeRequest): Promise<JudgeAnswer>;
}

/** Null as score: no verdict. */
type Verdict = {
  readonly score: number;
  readonly passed: boolean;
  readonly sample?: Readonly<Record<string, unknown>>;
};
type Judge = (data: TemplateData, context: GradeContext) => Promise<Verdict>;

/** Judges one item; what goes wrong with the item or its judge is in the result, not thrown. Only an abort is. */
export type Grade = (data: TemplateData, context: GradeContext, signal: AbortSignal) => Promise<EvalResult>;

/** Reads a grader once. @throws TemplateError, FormulaError, or Error for a benchmark that is not known */
export function graderOf(grader: Grader, benchmarks: (name: string) => EvalTask | null): Grade {
  const judge = judgeOf(grader, benchmarks);
  return async (data, context, signal) => {
    const { name, type } = grader;
    try {
      const { score, passed, sample } = await judge(data, context);
      if (!Number.isFinite(score)) throw new MissingValue(`expected a number as score, received ${score}`);
      return { name, type, passed, score, ...(sample === undefined ? {} : { sample }) };
    } catch (error) {
      signal.throwIfAborted();
      return { name, type, passed: false, score: 0, error: error instanceof Error ? error.message : String(error) };
    }
  };
}

function judgeOf(grader: Grader, benchmarks: (name: string) => EvalTask | null): Judge {
  switch (grader.type) {
    case 'string_check': {
      const [input, reference] = [parseTemplate(grader.input), parseTemplate(grader.reference)];
      return async (data) => {
        const holds = compare(grader.operation, renderTemplate(input, data), renderTemplate(reference, data));
        return { score: holds ? 1 : 0, passed: holds };
      };
    }
    case 'text_similarity': {
      const [input, reference] = [parseTemplate(grader.input), parseTemplate(grader.reference)];
      return async (data) => {
        const score = similarity(
          grader.evaluation_metric,
          renderTemplate(input, data),
          renderTemplate(reference, data),
        );
        return { score, passed: score >= (grader.pass_threshold ?? 1) };
      };
    }
    case 'label_model': {
      const write = conversationOf(grader.input, ['item', 'sample']);
      const { model, labels, passing_labels: passing, sampling_params: sampling = {} } = grader;
      return async (data, context) => {
        const messages = write(data);
        const answer = await context.ask({ model, messages, sampling, form: { type: 'choice', choices: labels } });
        if (!labels.includes(answer.text))
          throw new MissingValue(
            `${model}: expected one of the labels, received ${JSON.stringify(answer.text.slice(0, 80))}`,
          );
        const passed = passing.includes(answer.text);
        return { score: passed ? 1 : 0, passed, sample: sampleOf(model, answer) };
      };
    }
    case 'score_model': {
      const write = conversationOf(grader.input, ['item', 'sample']);
      const { model, sampling_params: sampling = {} } = grader;
      const [least, most] = grader.range ?? [0, 1];
      const schema = {
        type: 'object',
        properties: { result: { type: 'number', minimum: least, maximum: most } },
        required: ['result'],
        additionalProperties: false,
      };
      return async (data, context) => {
        const answer = await context.ask({
          model,
          messages: write(data),
          sampling,
          form: { type: 'json_schema', schema },
        });
        const score = resultIn(answer.text);
        if (score === null || score < least || score > most)
          throw new MissingValue(
            `${model}: expected {"result": a number from ${least} to ${most}}, received ${JSON.stringify(answer.text.slice(0, 80))}`,
          );
        return {
          score,
          passed: score >= (grader.pass_threshold ?? (least + most) / 2),
          sample: sampleOf(model, answer),
        };
      };
    }
    case 'mantis.benchmark':
      return benchmarkJudge(grader, benchmarks);
    case 'multi': {
      const names = Object.keys(grader.graders);
      const judges = Object.entries(grader.graders).map(([name, inner]) => [name, judgeOf(inner, benchmarks)] as const);
      const formula: Formula = parseFormula(grader.calculate_output, names);
      return async (data, context) => {
        const scores: Record<string, number> = {};
        for (const [name, judge] of judges) scores[name] = (await judge(data, context)).score;
        const score = formula(scores);
        if (!Number.isFinite(score))
          throw new FormulaError(
            `${grader.calculate_output}: expected a number, received ${score} for ${JSON.stringify(scores)}`,
          );
        return { score, passed: score >= (grader.pass_threshold ?? 0.5), sample: { scores } };
      };
    }
  }
}

function compare(operation: 'eq' | 'ne' | 'like' | 'ilike', input: string, reference: string): boolean {
  if (operation === 'eq') return input === reference;
  if (operation === 'ne') return input !== reference;
  if (operation === 'like') return input.includes(reference);
  return input.toLowerCase().includes(reference.toLowerCase());
}

function benchmarkJudge(
  grader: Extract<SimpleGrader, { type: 'mantis.benchmark' }>,
  benchmarks: (name: string) => EvalTask | null,
): Judge {
  const task = benchmarks(grader.benchmark);
  if (task === null)
    throw new Error(`benchmark: expected one that is known, received ${JSON.stringify(grader.benchmark)}`);
  const of = (text: string | undefined): Template | null => (text === undefined ? null : parseTemplate(text));
  const [input, answers] = [parseTemplate(grader.input), parseTemplate(grader.answers)];
  const [question, options, category] = [of(grader.question), of(grader.options), of(grader.category)];
  const fields = Object.entries(grader.fields ?? {}).map(([name, text]) => [name, parseTemplate(text)] as const);
  return async (data) => {
    const record: EvalRecord = {
      id: '',
      group: '',
      category: category === null ? null : renderTemplate(category, data),
      images: [],
      question: question === null ? '' : renderTemplate(question, data),
      options: options === null ? [] : strings(templateValue(options, data)),
      answers: strings(templateValue(answers, data)),
      fields: Object.fromEntries(fields.map(([name, template]) => [name, templateValue(template, data) as Json])),
    };
    const { score, parsed, rule } = task.score(renderTemplate(input, data), record);
    return { score, passed: score >= (grader.pass_threshold ?? 1), sample: { parsed, rule } };
  };
}

/** One string stands for a list of one. */
function strings(value: unknown): string[] {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  return list.map((one) => (typeof one === 'string' ? one : JSON.stringify(one)));
}

function resultIn(text: string): number | null {
  try {
    const { result } = JSON.parse(text) as { result?: unknown };
    return typeof result === 'number' && Number.isFinite(result) ? result : null;
  } catch {
    return null;
  }
}

function sampleOf(model: string, { text, finishReason, promptTokens, completionTokens, cachedTokens }: JudgeAnswer) {
  return {
    model,
    output: [{ role: 'assistant', content: text }],
    finish_reason: finishReason,
    usage: {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      cached_tokens: cachedTokens,
      total_tokens: promptTokens + completionTokens,
    },
  };
}
