import type { AnswerBy, TaskOptions } from '../options.ts';
import { letterOf } from '../parsers/letters.ts';
import type { EvalPrompt, EvalRecord, EvalTask, Scored } from '../task.ts';
import { placePictures } from './placing.ts';

/** What multiple-choice benchmarks end their questions with. */
export const LETTER_PROMPT = "Answer with the option's letter from the given choices directly.";

/** What a multiple-choice benchmark is, beside its files. */
export interface LetterBenchmark {
  readonly name: string;
  readonly title: string;
  readonly version: number;
  readonly split: string;
  /** Longest answer, tokens. */
  readonly maxTokens: number;
  readonly aggregate: EvalTask['aggregate'];
  /** How question and options are written, in words. */
  readonly promptForm: readonly string[];
  /** The prompt's text, `<image k>` where a picture belongs. */
  write(record: EvalRecord): string;
  /** How the answer is read, in words. */
  readonly parser: string;
  /** @param target the right letter */
  score(answer: string, record: EvalRecord, target: string): Scored;
  open: EvalTask['open'];
  readonly sources: readonly string[];
  readonly notes?: { readonly [key: string]: string };
  readonly extraction?: EvalTask['extraction'];
  readonly submissionRow?: EvalTask['submissionRow'];
}

/** A task of questions with lettered options. */
export function letterTask(benchmark: LetterBenchmark, { answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  const { extraction, submissionRow } = benchmark;
  return {
    name: benchmark.name,
    title: benchmark.title,
    version: benchmark.version,
    protocol: {
      split: benchmark.split,
      prompt: benchmark.promptForm,
      parser: benchmark.parser,
      ...benchmark.notes,
      maxTokens: benchmark.maxTokens,
      answerBy,
      sources: benchmark.sources,
    },
    aggregate: benchmark.aggregate,
    open: (source) => benchmark.open(source),
    prompt: (record) => letterPrompt(benchmark.write(record), record, benchmark.maxTokens, answerBy),
    score: (answer, record) => {
      const target = record.answers[0];
      const scored = benchmark.score(answer, record, target ?? '');
      return target === undefined ? { ...scored, score: 0, rule: 'no reference' } : scored;
    },
    ...(extraction === undefined ? {} : { extraction }),
    ...(submissionRow === undefined ? {} : { submissionRow }),
  };
}

/** A question with its pictures; the letters are its choices where likelihoods are compared. */
export function letterPrompt(text: string, record: EvalRecord, maxTokens: number, answerBy: AnswerBy): EvalPrompt {
  return {
    parts: placePictures(text, record.images.length),
    images: record.images,
    maxTokens,
    ...(answerBy === 'likelihood' && record.options.length > 0
      ? { choices: record.options.map((_, i) => letterOf(i)) }
      : {}),
  };
}
