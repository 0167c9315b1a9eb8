import { vqaAccuracy } from '../parsers/vqa.ts';
import { collectRecords } from '../source/collect.ts';
import type { EvalRecord, EvalTask, Json, Scored } from '../task.ts';
import { placePictures } from './placing.ts';
import { type VqaForm, vqaRecords } from './vqa-rows.ts';

/** One word or phrase: what all three VQA benchmarks ask for. */
export const SHORT_ANSWER = '\nAnswer the question using a single word or phrase.';

/** What a VQA benchmark is, beside its files. */
export interface VqaBenchmark {
  readonly name: string;
  readonly title: string;
  readonly version: number;
  readonly form: VqaForm;
  /** Longest answer, tokens. */
  readonly maxTokens: number;
  /** Behind the question. */
  readonly suffix: string;
  /** How the question is written before the suffix. */
  readonly question: 'as published' | 'capitalised';
  readonly writeQuestion: (question: string) => string;
  readonly normalization: 'VQA' | 'EvalAI';
  readonly normalize: (text: string) => string;
  readonly sources: readonly string[];
}

/** A task of free short answers that annotators agree on or not. */
export function vqaTask(benchmark: VqaBenchmark): EvalTask {
  const { name, title, version, form, suffix, normalize, maxTokens } = benchmark;
  return {
    name,
    title,
    version,
    protocol: {
      split: form.split,
      prompt: ['picture', `question, ${benchmark.question}`, suffix],
      maxTokens,
      normalization: benchmark.normalization,
      score:
        'VQA accuracy: min(1, matches / 3), averaged over leaving out each annotator; answers and references normalised always',
      sources: benchmark.sources,
    },
    aggregate: 'records',
    open: (source) => collectRecords(source, (pictures) => vqaRecords(source, form, pictures)),
    prompt: (record) => ({
      parts: placePictures(benchmark.writeQuestion(record.question) + suffix, record.images.length),
      images: record.images,
      maxTokens,
    }),
    score: (answer, record) => scoreVqa(answer, record, normalize),
    submissionRow: (answer, record) => ({ question_id: idOf(record), answer: normalize(answer) }),
  };
}

function scoreVqa(answer: string, record: EvalRecord, normalize: (text: string) => string): Scored {
  const parsed = normalize(answer);
  if (record.answers.length === 0) return { score: 0, parsed, rule: 'no reference' };
  const references = record.answers.map(normalize);
  const score = vqaAccuracy(parsed, references);
  if (parsed === '') return { score, parsed: null, rule: 'empty' };
  return { score, parsed, rule: score === 0 ? 'no annotator agrees' : 'annotators agree' };
}

/** Servers want VQA's ids as numbers. */
function idOf({ id }: EvalRecord): Json {
  return /^\d{1,15}$/.test(id) ? Number(id) : id;
}
