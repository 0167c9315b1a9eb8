import { clusterBootstrap } from '../statistics/bootstrap.ts';
import { intraclassCorrelation } from '../statistics/clustered.ts';
import { designOf, type Observation } from '../statistics/design.ts';
import { errorOfDifference, type MeasuredDifference, type Power, powerOf } from '../statistics/power.ts';
import { type EvalItem, type EvalModel, type EvalSpec, specHash } from '../task.ts';
import { anchorsOf } from './anchors.ts';
import { answersOf, calibrationOf } from './answers.ts';
import { causesOf } from './errors.ts';
import { drawn, givenOf, questionOf } from './gallery.ts';
import {
  byRecord,
  clip,
  estimateFrom,
  groupBy,
  isOfProtocol,
  observationsOf,
  type ReportRecord,
  rounded,
  withReference,
} from './items.ts';
import { imageOrderOf } from './order.ts';
import { optionRotationOf } from './rotation.ts';
import { type EvalReport, REPORT_CONFIDENCE, REPORT_VERSION, type ReportPower } from './schema.ts';
import { controlsOf, leaveOneOutOf, visionOf } from './vision.ts';

export interface ReportInput {
  readonly spec: EvalSpec;
  /** Of the benchmark, for people. Default: its name. */
  readonly title?: string;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
  /** In the order of records and variants. */
  readonly items: readonly EvalItem[];
  /** The records that were asked, read once; see `recordsOf`. */
  readonly records: AsyncIterable<ReportRecord> | Iterable<ReportRecord>;
  readonly run?: EvalReport['run'];
  /** Of an evaluation of one's own items. */
  readonly own?: OwnFacts;
}

/** What one's own items have in place of a benchmark's references. */
export interface OwnFacts {
  readonly criteria: EvalReport['criteria'];
  /** Whether an answer is right where it equals the reference, so that tables of answers, and always giving the commonest one, mean something. */
  readonly hasAnswerKey: boolean;
}

/** Bootstrap draws times clusters: more clusters get fewer draws. */
const BOOTSTRAP_WORK = 2e7;
const BOOTSTRAP_DRAWS = 1_000;
/** Of two models' means on the same questions, where only one was measured. Miller 2024, section 4.2: 0.3 to 0.7. */
const ASSUMED_CORRELATION = 0.5;

/** What a run came to: see schema.ts for every part. The same input gives the same bytes of JSON. */
export async function buildReport(input: ReportInput): Promise<EvalReport> {
  const { spec, title, model, items, records, own } = input;
  // Criteria judge without references too.
  const known = own === undefined ? withReference(items) : items;
  const scored = known.filter((item) => isOfProtocol(item, spec));
  const by = spec.aggregate === 'categories' ? 'categories' : 'records';
  const observations = observationsOf(scored, spec.aggregate);
  const headline = observations.length === 0 ? null : estimateFrom(observations, by);
  const controls = controlsOf(known, scored, spec.aggregate);
  const imageOrder = imageOrderOf(known, spec);
  const leaveOneOut = leaveOneOutOf(known);
  const wrongOnes = [...byRecord(scored).values()].filter((asked) => asked.some(({ score }) => score < 1));
  const shown = drawn(wrongOnes, (asked) => asked[0]?.record ?? '');
  const facts = await readRecords(records, new Set(shown.map((asked) => asked[0]?.record ?? '')));
  const unanswered = wrongOnes.filter((asked) => asked.every(({ score, error }) => score === 1 || error !== undefined));
  const hasAnswerKey = own?.hasAnswerKey ?? true;
  const names = [...new Set(scored.flatMap(({ category }) => category ?? []))].sort();
  return rounded({
    object: 'mantis.eval_report',
    version: REPORT_VERSION,
    specHash: specHash(spec),
    spec: specJson(spec),
    title: title ?? spec.task,
    model: { name: model.name, identity: model.identity },
    run: input.run ?? null,
    counts: {
      records: new Set(items.map(({ record }) => record)).size,
      withPictures: facts.withPictures,
      items: items.length,
      scored: scored.length,
      errors: items.filter(({ error }) => error !== undefined).length,
      unparsed: items.filter(({ parsed, error }) => parsed === null && error === undefined).length,
      withoutReference: items.length - known.length,
    },
    errors: causesOf(items),
    criteria: own?.criteria.map((one) => ({ ...one })) ?? [],
    headline,
    bootstrap:
      headline === null || headline.clusters < 2
        ? null
        : clusterBootstrap(observations, {
            by,
            confidence: REPORT_CONFIDENCE,
            draws: Math.max(100, Math.min(BOOTSTRAP_DRAWS, Math.floor(BOOTSTRAP_WORK / headline.clusters))),
            seed: 'report',
          }),
    baseline: hasAnswerKey ? baselineOf(scored, facts.optionCounts, spec) : NO_BASELINE,
    anchors: anchorsOf(spec.task),
    categories:
      names.length < 2
        ? []
        : names.map((name) => ({
            name: clip(name, 80),
            ...estimateFrom(
              observationsOf(
                scored.filter(({ category }) => category === name),
                spec.aggregate,
              ),
            ),
          })),
    imageOrder,
    optionRotation: optionRotationOf(known),
    controls,
    leaveOneOut,
    vision: visionOf(controls, leaveOneOut, imageOrder),
    answers: answersOf(scored, { optionCounts: facts.optionCounts, hasAnswerKey }),
    calibration: calibrationOf(scored),
    power: headline === null ? null : powersOf(headline, observations, by, scored.length),
    usage: usageOf(items),
    wrong: {
      total: wrongOnes.length - unanswered.length,
      unanswered: unanswered.length,
      shown: shown.map((asked) => {
        const wrong = asked.filter(({ score }) => score < 1);
        const first = wrong[0] as EvalItem;
        return {
          ...questionOf(first, facts.records.get(first.record)),
          ...givenOf(first),
          error: first.error === undefined ? null : clip(first.error, 500),
          asked: asked.length,
          wrong: wrong.length,
        };
      }),
    },
  } satisfies EvalReport);
}

/** The specification as it is written: what it holds may be changed by who reads it. */
export function specJson(spec: EvalSpec): EvalReport['spec'] {
  return structuredClone(spec) as EvalReport['spec'];
}

/** Option counts of all records, and in full those that the report shows. */
async function readRecords(
  records: ReportInput['records'],
  shown: ReadonlySet<string>,
): Promise<{ optionCounts: Map<string, number>; withPictures: number; records: Map<string, ReportRecord> }> {
  const optionCounts = new Map<string, number>();
  const kept = new Map<string, ReportRecord>();
  let withPictures = 0;
  for await (const { id, question, options, images } of records) {
    if (images.length > 0) withPictures++;
    optionCounts.set(id, options.length);
    if (shown.has(id)) kept.set(id, { id, question, options, images: images.map(({ sha256 }) => ({ sha256 })) });
  }
  return { optionCounts, withPictures, records: kept };
}

const NO_BASELINE: EvalReport['baseline'] = { chance: null, majority: null, majorityAnswer: null };

function baselineOf(
  scored: readonly EvalItem[],
  optionCounts: ReadonlyMap<string, number>,
  { aggregate }: Pick<EvalSpec, 'aggregate'>,
): EvalReport['baseline'] {
  // All of a group right by luck depends on how the answers are drawn; no line is better than a wrong one.
  if (aggregate === 'groups' || scored.length === 0) return NO_BASELINE;
  const parts = aggregate === 'categories' ? [...groupBy(scored, ({ category }) => category ?? '').values()] : [scored];
  const chances = parts.map(
    (part) => part.reduce((sum, { record }) => sum + guess(optionCounts.get(record) ?? 0), 0) / part.length,
  );
  const hasOptions = scored.some(({ record }) => (optionCounts.get(record) ?? 0) > 1);
  const references = [...groupBy(scored, ({ reference }) => reference)].sort(
    ([a, own], [b, others]) => others.length - own.length || (a < b ? -1 : 1),
  );
  const [commonest, own] = references[0] ?? ['', []];
  const isMeaningful = own.length > 1 && references.length > 1;
  const shareIn = (part: readonly EvalItem[]) =>
    part.filter(({ reference }) => reference === commonest).length / part.length;
  return {
    chance: hasOptions ? chances.reduce((sum, chance) => sum + chance, 0) / chances.length : null,
    majority: isMeaningful ? parts.reduce((sum, part) => sum + shareIn(part), 0) / parts.length : null,
    majorityAnswer: isMeaningful ? clip(commonest, 80) : null,
  };
}

/** Free answers are not guessed. */
const guess = (options: number): number => (options > 1 ? 1 / options : 0);

function powersOf(
  headline: NonNullable<EvalReport['headline']>,
  observations: readonly Observation[],
  by: 'records' | 'categories',
  answers: number,
): EvalReport['power'] {
  const { degreesOfFreedom, clusters } = designOf(observations, by);
  const isCounted = by === 'records' && clusters === observations.length && observations.every(isRightOrWrong);
  const measured = (correlation: number): MeasuredDifference => {
    const standardError = errorOfDifference(headline.standardError ?? 0, correlation);
    return { standardError, items: answers, clusters, degreesOfFreedom, isCounted };
  };
  const [same, other] = [powerOf(measured(ASSUMED_CORRELATION)), powerOf({ ...measured(0), isCounted: false })];
  if (same === null || other === null) return null;
  return {
    intraclassCorrelation: intraclassCorrelation(observations),
    designEffect: headline.items / headline.effectiveItems,
    sameQuestions: powerJson(same),
    otherQuestions: powerJson(other),
  };
}

const isRightOrWrong = ({ value }: Observation): boolean => value === 0 || value === 1;

export function powerJson({ needed, ...power }: Power): ReportPower {
  return { ...power, needed: needed.map((one) => ({ ...one })) };
}

function usageOf(items: readonly EvalItem[]): EvalReport['usage'] {
  const used = items.flatMap(({ usage }) => usage ?? []);
  if (used.length === 0) return null;
  return {
    promptTokens: used.reduce((sum, { promptTokens }) => sum + promptTokens, 0),
    completionTokens: used.reduce((sum, { completionTokens }) => sum + completionTokens, 0),
  };
}

/** The report as a file: indented, so that two can be read side by side. */
export function reportJson(report: object): string {
  return `${JSON.stringify(report, null, 1)}\n`;
}
