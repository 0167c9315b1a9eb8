import { variantKey } from '../controls.ts';
import { compareRuns, type RunComparison, type ScoredPair } from '../statistics/compare.ts';
import { holm } from '../statistics/holm.ts';
import { powerOf } from '../statistics/power.ts';
import { type EvalItem, type EvalModel, type EvalSpec, specHash } from '../task.ts';
import { powerJson, specJson } from './build.ts';
import { counted, questions } from './coverage.ts';
import { drawn, givenOf, questionOf } from './gallery.ts';
import { clip, groupBy, isOfProtocol, type ReportRecord, rounded, withReference } from './items.ts';
import { type EvalComparison, type PairedAnswer, REPORT_CONFIDENCE, REPORT_VERSION } from './schema.ts';
import { specDifferences } from './spec-diff.ts';
import { differenceOf, signed, unsigned } from './vision.ts';

/** One of two runs: what its folder holds. */
export interface ComparedRun {
  readonly spec: EvalSpec;
  readonly model: Pick<EvalModel, 'name' | 'identity'>;
  readonly items: readonly EvalItem[];
  /** Its own name. Default: the model's. */
  readonly label?: string;
  /** Items without a reference count too: criteria judged them. */
  readonly isOwn?: boolean;
}

export interface CompareInput {
  readonly first: ComparedRun;
  readonly second: ComparedRun;
  readonly title?: string;
  /** Of the second run, for questions and pictures. */
  readonly records: AsyncIterable<ReportRecord> | Iterable<ReportRecord>;
  /** Compare although the runs did different things: what they share is paired, and the report says what differs. */
  readonly force?: boolean;
}

/** Two runs that did different things, or have nothing in common. */
export class NotComparable extends Error {
  override readonly name = 'NotComparable';
}

/** Questions of each gallery. */
const SHOWN = 60;
/** Of a difference that goes into a run's name. */
const MAX_LABEL_CHARS = 40;

interface Pair {
  readonly first: EvalItem;
  readonly second: EvalItem;
}

/**
 * Two runs of one specification, answer by answer.
 * @throws NotComparable naming what differs between the specifications, unless forced or only the way of asking one's own items; where no answer has a partner
 */
export async function compareReports(input: CompareInput): Promise<EvalComparison> {
  const { first, second, title, records, force = false } = input;
  const differences = specDifferences(first.spec, second.spec);
  const standing = first.isOwn === true && second.isOwn === true ? differences.filter(isNoWayOfAsking) : differences;
  if (standing.length > 0 && !force) throw new NotComparable(refusal(standing));
  const { pairs, unpaired } = pairedItems(first, second);
  if (pairs.length === 0)
    throw new NotComparable('The two runs have no question in common whose answer is known: nothing can be compared.');
  const { aggregate } = second.spec;
  const scores = scoredPairs(pairs, aggregate);
  const by = aggregate === 'categories' ? 'categories' : 'records';
  const compared = compareRuns(scores, { by, confidence: REPORT_CONFIDENCE, seed: 'comparison' });
  const wins = pairs.filter((pair) => pair.second.score > pair.first.score);
  const losses = pairs.filter((pair) => pair.second.score < pair.first.score);
  const nameOf = ({ second: item }: Pair) => `${item.record}\n${variantKey(item.variant)}`;
  const [shownWins, shownLosses] = [drawn(wins, nameOf, SHOWN), drawn(losses, nameOf, SHOWN)];
  const wanted = new Set([...shownWins, ...shownLosses].map((pair) => pair.second.record));
  const known = new Map<string, ReportRecord>();
  if (wanted.size > 0)
    for await (const { id, question, options, images } of records)
      if (wanted.has(id)) known.set(id, { id, question, options, images: images.map(({ sha256 }) => ({ sha256 })) });
  const shown = (own: readonly Pair[]) =>
    own.map(
      (pair): PairedAnswer => ({
        ...questionOf(pair.second, known.get(pair.second.record)),
        first: givenOf(pair.first),
        second: givenOf(pair.second),
      }),
    );
  const { clusters, degreesOfFreedom } = compared.first;
  const { standardError } = compared;
  const isCounted = compared.test === 'exact McNemar';
  const power = powerOf({ standardError, items: pairs.length, clusters, degreesOfFreedom, isCounted });
  const labels = labelsOf(first, second, differences);
  return rounded({
    object: 'mantis.eval_comparison',
    version: REPORT_VERSION,
    title: title ?? second.spec.task,
    spec: specJson(second.spec),
    first: sideOf(first, labels[0], compared.first),
    second: sideOf(second, labels[1], compared.second),
    specDifferences: differences,
    pairs: pairs.length,
    clusters,
    unpaired,
    change: { ...differenceOf(compared), correlation: compared.correlation },
    counts: compared.counts === null ? null : { ...compared.counts },
    categories: categoriesOf(scores),
    power: power === null ? null : powerJson(power),
    verdict: verdictOf(compared, labels, pairs.length, power?.smallestDifference ?? null),
    wins: { total: wins.length, shown: shown(shownWins) },
    losses: { total: losses.length, shown: shown(shownLosses) },
  } satisfies EvalComparison);
}

/** On one's own items prompts and sampling are what runs are made to compare: said, not refused. Items and criteria must be the same. */
function isNoWayOfAsking({ path }: EvalComparison['specDifferences'][number]): boolean {
  return !/^protocol\.(prompt|sampling)\b/.test(path);
}

function refusal(differences: EvalComparison['specDifferences']): string {
  const named = differences
    .slice(0, 8)
    .map(({ path, first, second }) => `${path}: ${clip(first, 80)} and ${clip(second, 80)}`);
  const more = differences.length > named.length ? `; and ${differences.length - named.length} more` : '';
  return `The two runs did different things, so that their difference is not the models' alone: ${named.join('; ')}${more}. Run one of them again alike, or force the comparison of what they share.`;
}

/** In a few words: questions that both were asked are told by their number, other differences by their values. */
function toldApart(
  { spec: { data } }: ComparedRun,
  { spec: { data: other } }: ComparedRun,
  differences: EvalComparison['specDifferences'],
): [string, string] {
  if (data.records !== other.records) return [questions(data.records), questions(other.records)];
  const short = differences.find((one) => Math.max(one.first.length, one.second.length) <= MAX_LABEL_CHARS);
  if (short === undefined) return ['first run', 'second run'];
  return [short.first.replaceAll('"', ''), short.second.replaceAll('"', '')];
}

/** Two names that differ: by what the runs did differently, or by their places. */
function labelsOf(
  first: ComparedRun,
  second: ComparedRun,
  differences: EvalComparison['specDifferences'],
): [string, string] {
  const [before, after] = [first.label ?? first.model.name, second.label ?? second.model.name];
  if (before !== after) return [before, after];
  if (first.model.name !== second.model.name)
    return [`${before} (${first.model.name})`, `${after} (${second.model.name})`];
  const told = toldApart(first, second, differences);
  return [`${before} (${told[0]})`, `${after} (${told[1]})`];
}

function sideOf(
  { spec, model }: ComparedRun,
  label: string,
  { mean, interval }: RunComparison['first'],
): EvalComparison['first'] {
  const { name, identity } = model;
  return { label, model: { name, identity }, specHash: specHash(spec), mean, interval: [...interval] };
}

function pairedItems(first: ComparedRun, second: ComparedRun): { pairs: Pair[]; unpaired: EvalComparison['unpaired'] } {
  const keyOf = ({ record, variant }: EvalItem) => `${record}\n${variantKey(variant)}`;
  const counting = ({ items, spec, isOwn = false }: ComparedRun) =>
    (isOwn ? items : withReference(items)).filter((item) => isOfProtocol(item, spec));
  const partners = new Map(counting(first).map((item) => [keyOf(item), item]));
  const own = counting(second);
  const pairs = own.flatMap((item) => {
    const partner = partners.get(keyOf(item));
    return partner === undefined ? [] : [{ first: partner, second: item }];
  });
  return { pairs, unpaired: { first: partners.size - pairs.length, second: own.length - pairs.length } };
}

function scoredPairs(pairs: readonly Pair[], aggregate: EvalSpec['aggregate']): ScoredPair[] {
  if (aggregate !== 'groups')
    return pairs.map(({ first, second: { group, category, score } }) => ({
      cluster: group,
      category,
      first: first.score,
      second: score,
    }));
  return [...groupBy(pairs, ({ second }) => second.group)].map(([cluster, own]) => ({
    cluster,
    category: own[0]?.second.category ?? null,
    first: Math.min(...own.map(({ first }) => first.score)),
    second: Math.min(...own.map(({ second }) => second.score)),
  }));
}

function categoriesOf(scores: readonly ScoredPair[]): EvalComparison['categories'] {
  const groups = [...groupBy(scores, ({ category }) => category ?? '')].sort(([a], [b]) => (a < b ? -1 : 1));
  if (groups.length < 2) return [];
  const compared = groups.map(([name, own]) => ({
    name,
    pairs: own.length,
    result: compareRuns(own, { confidence: REPORT_CONFIDENCE, seed: name }),
  }));
  const adjusted = holm(compared.map(({ result }) => result.pValue));
  return compared.map(({ name, pairs, result }, i) => ({
    name: name === '' ? 'without category' : clip(name, 80),
    pairs,
    first: result.first.mean,
    second: result.second.mean,
    ...differenceOf(result),
    adjustedPValue: adjusted[i] as number,
  }));
}

function verdictOf(
  { difference, interval, pValue, standardError }: RunComparison,
  [first, second]: readonly [string, string],
  pairs: number,
  smallest: number | null,
): EvalComparison['verdict'] {
  const [low, high] = interval;
  const answers = pairs === 1 ? 'the one answer' : `these ${counted(pairs, 'answer')}`;
  // Both have to say so: near the border an interval and a test may disagree.
  if (pValue < 1 - REPORT_CONFIDENCE && (low > 0 || high < 0)) {
    const isSecond = difference > 0;
    const lead = isSecond ? [low, high] : [-high, -low];
    const words = `${isSecond ? second : first} is better than ${isSecond ? first : second}, by ${unsigned(difference)} points on ${answers}; its true lead is likely to lie within ${lead.map(unsigned).join(' … ')} points.`;
    return { outcome: isSecond ? 'second' : 'first', words };
  }
  if (difference === 0 && standardError === 0)
    return {
      outcome: 'equal',
      words: `${first} and ${second} score the same on ${pairs === 1 ? answers : `each of ${answers}`}.`,
    };
  const unseen =
    smallest === null
      ? 'So few answers can hardly show any difference.'
      : `A true difference below ${unsigned(smallest)} points is likely to stay unseen by so many.`;
  const nothing = pairs === 1 ? 'The one answer does' : `These ${counted(pairs, 'answer')} do`;
  const words = `${nothing} not show which is better: ${second} scores ${signed(difference)} points against ${first}, within ${signed(low)} … ${signed(high)}. ${unseen}`;
  return { outcome: 'unclear', words };
}
