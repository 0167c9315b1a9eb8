/** From what was written of a client's own items to a report: criteria in place of a benchmark's score, and references only where criteria have them. */
import type { Grader } from '../../../shared/contract/evals.ts';
import type { EvalItemsPage } from '../../../shared/contract/evalTask.ts';
import {
  parseTemplate,
  renderTemplate,
  type TemplateData,
  templateValue,
} from '../../../shared/contract/evalTemplate.ts';
import type { EvalItem } from '../task.ts';
import type { OwnFacts } from './build.ts';
import { estimateFrom, type ReportRecord } from './items.ts';
import type { EvalReport } from './schema.ts';

type Written = EvalItemsPage['items'][number];
type Read = (data: TemplateData) => string | null;

/** One evaluation's items as a report wants them, and what its criteria came to. */
export class OwnItems {
  readonly #references: readonly Read[];
  readonly #input: Read | null;
  readonly #hasAnswerKey: boolean;
  readonly #rows: CriterionRow[];

  constructor(criteria: readonly Grader[]) {
    this.#references = criteria.flatMap((grader) => referenceOf(grader) ?? []);
    const [only] = criteria.length === 1 ? criteria : [];
    const isEqual = only?.type === 'string_check' && only.operation === 'eq';
    this.#hasAnswerKey = isEqual || only?.type === 'mantis.benchmark';
    this.#input = isEqual ? rendered(only.input) : null;
    this.#rows = criteria.map(({ name, type }) => new CriterionRow(name, type));
  }

  /** An item of the report: passed or not, clustered by `item.group`, split by `item.category`, where items have these. Each is to be given once. */
  add({ line, status, datasourceItem: item, results, sample }: Written): EvalItem {
    const group = typeof item.group === 'string' ? item.group : nameOf(line);
    for (const [i, row] of this.#rows.entries()) row.add(results[i], group);
    const answer = sample.output[0]?.content ?? '';
    const failed = results.filter(({ passed }) => !passed).map(({ name }) => name);
    const error = sample.error?.message ?? results.find((result) => result.error !== undefined)?.error;
    const data: TemplateData = { item, sample: { output_text: answer } };
    const references = [...new Set(this.#references.flatMap((read) => read(data) ?? []))];
    return {
      record: nameOf(line),
      group,
      category: typeof item.category === 'string' ? item.category : null,
      variant: { control: 'none' },
      answer,
      parsed: status === 'error' ? null : this.#parsed(data, results, answer),
      rule:
        sample.error !== null
          ? 'no answer'
          : error !== undefined
            ? 'no verdict'
            : failed.length === 0
              ? 'passed'
              : `not ${failed.join(', ')}`,
      score: status === 'pass' ? 1 : 0,
      reference: references.join(' | '),
      ...(error === undefined ? {} : { error }),
    };
  }

  /** Of the items that were added. */
  facts(): OwnFacts {
    return { criteria: this.#rows.map((row) => row.facts()), hasAnswerKey: this.#hasAnswerKey };
  }

  #parsed(data: TemplateData, results: Written['results'], answer: string): string | null {
    const parsed = results.length === 1 ? results[0]?.sample?.parsed : undefined;
    if (typeof parsed === 'string' || parsed === null) return parsed;
    return this.#input?.(data) ?? answer;
  }
}

class CriterionRow {
  readonly #scores: { value: number; cluster: string; category: null }[] = [];
  #passed = 0;
  #errored = 0;

  constructor(
    private readonly name: string,
    private readonly type: string,
  ) {}

  add(result: Written['results'][number] | undefined, cluster: string): void {
    if (result === undefined || result.error !== undefined) {
      this.#errored++;
      return;
    }
    if (result.passed) this.#passed++;
    this.#scores.push({ value: result.score, cluster, category: null });
  }

  facts(): EvalReport['criteria'][number] {
    const scores = this.#scores;
    const { name, type } = this;
    const count = { passed: this.#passed, failed: scores.length - this.#passed, errored: this.#errored };
    const mean = scores.length === 0 ? null : scores.reduce((sum, { value }) => sum + value, 0) / scores.length;
    // Scores of another range have no score interval.
    const isShare = scores.length > 1 && scores.every(({ value }) => value >= 0 && value <= 1);
    const estimate = isShare ? estimateFrom(scores) : null;
    return { name, type, ...count, mean, interval: estimate?.method === 'wilson' ? estimate.interval : null };
  }
}

/** Where an item has what its criterion holds the answer against; null for criteria that hold it against nothing that can be shown. */
function referenceOf(grader: Grader): Read | null {
  if (grader.type === 'text_similarity') return rendered(grader.reference);
  if (grader.type === 'string_check') return grader.operation === 'ne' ? null : rendered(grader.reference);
  if (grader.type !== 'mantis.benchmark') return null;
  const template = parseTemplate(grader.answers);
  return tried((data) => {
    const value = templateValue(template, data);
    return (Array.isArray(value) ? value : [value])
      .map((one: unknown) => (typeof one === 'string' ? one : JSON.stringify(one)))
      .join(' | ');
  });
}

function rendered(text: string): Read {
  const template = parseTemplate(text);
  return tried((data) => renderTemplate(template, data));
}

/** An item that lacks a field has said so as its error. */
function tried(read: (data: TemplateData) => string): Read {
  return (data) => {
    try {
      return read(data);
    } catch {
      return null;
    }
  };
}

/** The question as it was asked; its pictures by the marks that stand for them, which words of an item may look like: those are found nowhere. */
export function ownRecord({ line, datasourceItem: item, sample }: Written): ReportRecord {
  const asked = sample.input.filter(({ role }) => role === 'user').map(({ content }) => content);
  const words = asked.join('\n');
  const images = sample.error === null ? [...words.matchAll(PICTURE)] : [];
  return {
    id: nameOf(line),
    question: asked.length > 0 ? words.replace(PICTURE, '<image>') : JSON.stringify(item).replace(DIGEST, '$1…'),
    options: [],
    images: images.map(([, sha256 = '']) => ({ sha256 })),
  };
}

/** Of which nobody reads more than the beginning. */
const DIGEST = /\b(sha256:[0-9a-f]{8})[0-9a-f]{56}\b/g;
const PICTURE = /\[image sha256:([0-9a-f]{64})\]/g;

/** What people call the line of an item. */
export function nameOf(line: number): string {
  return `item ${line + 1}`;
}
