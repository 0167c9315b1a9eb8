import type { KvFormat } from '../models/decode.ts';
import { type PrecisionRequest, WEIGHT_FORMATS, type WeightFormat } from './precision.ts';
import type { AccuracyRecord } from './precision-accuracy.ts';
import type { PrecisionTable } from './precision-table.ts';

/** Share of answers that must stay those of f32. */
export const LEAST_AGREEMENT = 0.99;
/** A format that is not at least so much faster than f32 is not worth what it costs. */
export const LEAST_GAIN = 1.25;
/** int8 keys and values are taken where a step is at least so much faster with them. */
const LEAST_KV_GAIN = 1.1;

/** Whether a format of weights may be chosen at all, with keys and values of one format or the other. */
export function isAccurateEnough({ rows }: AccuracyRecord, format: WeightFormat): boolean {
  return format === 'f32' || rows.some(({ weights, agreement }) => weights === format && agreement >= LEAST_AGREEMENT);
}

/** One line of the table: a format, what it takes and costs, and what speaks against it. */
export interface FormatLine {
  readonly weights: WeightFormat;
  readonly kv: KvFormat;
  /** Milliseconds a step of one row, of eight rows; `null` where the machine computes it wrongly. */
  readonly stepMs: readonly [one: number, eight: number] | null;
  readonly prefillTokensPerS: number | null;
  /** Share of answers of the measured model; `null` = not measured. */
  readonly agreement: number | null;
  /** How many times as fast as f32 a step of the server's load is; `null` where it is not computed. */
  readonly gain: number | null;
  /** `null` = may be chosen. */
  readonly against: string | null;
}

export interface PrecisionDecision {
  readonly weights: WeightFormat;
  readonly kv: KvFormat;
  /** Why this one, in words. */
  readonly reason: string;
  readonly lines: readonly FormatLine[];
}

/**
 * Chooses formats by what the machine measured. Of those whose answers are those of f32 often enough and that the machine computes
 * rightly, the fastest step wins, at one row where the server serves one row and at eight where it serves more; but f32 stays where
 * that is not LEAST_GAIN times as fast. What an operator fixed is kept, and the rest chosen for it.
 * @param asked the weights that are fixed, if any, must be one of the WEIGHT_FORMATS
 * @param maxRows rows that the server decodes at the same time
 */
export function decidePrecision(
  table: Pick<PrecisionTable, 'timings' | 'faults'>,
  accuracy: AccuracyRecord,
  maxRows: number,
  asked: { readonly weights: WeightFormat | 'auto'; readonly kv: PrecisionRequest['kv'] } = {
    weights: 'auto',
    kv: 'auto',
  },
): PrecisionDecision {
  const load = maxRows === 1 ? 0 : 1;
  const loadName = maxRows === 1 ? 'one row' : 'eight rows';
  const msOf = (line: Pick<FormatLine, 'stepMs'>): number => line.stepMs?.[load] ?? Number.POSITIVE_INFINITY;
  const base = table.timings.find(({ weights, kv }) => weights === 'f32' && kv === 'f32')?.stepMs[load] ?? 0;
  const lines = (['f32', 'int8'] as const).flatMap((kv) =>
    WEIGHT_FORMATS.map((weights): FormatLine => {
      const timing = table.timings.find((one) => one.weights === weights && one.kv === kv);
      const isBase = weights === 'f32' && kv === 'f32';
      const agreement = isBase
        ? 1
        : (accuracy.rows.find((row) => row.weights === weights && row.kv === kv)?.agreement ?? null);
      const gain = timing === undefined ? null : base / timing.stepMs[load];
      const line = {
        weights,
        kv,
        stepMs: timing?.stepMs ?? null,
        prefillTokensPerS: timing?.prefillTokensPerS ?? null,
        agreement,
        gain,
      };
      return { ...line, against: objection(line, table) };
    }),
  );
  const isAsked = ({ weights, kv }: FormatLine): boolean =>
    (asked.weights === 'auto' || asked.weights === weights) && (asked.kv === 'auto' || asked.kv === kv);
  const fastest = (some: readonly FormatLine[]): FormatLine | undefined =>
    some.reduce<FormatLine | undefined>(
      (best, one) => (best === undefined || msOf(one) < msOf(best) ? one : best),
      undefined,
    );
  const best = (some: readonly FormatLine[]): FormatLine | undefined => {
    const [plain, small] = [
      fastest(some.filter(({ kv }) => kv === 'f32')),
      fastest(some.filter(({ kv }) => kv === 'int8')),
    ];
    if (plain === undefined || small === undefined) return plain ?? small;
    return msOf(plain) >= LEAST_KV_GAIN * msOf(small) ? small : plain;
  };
  const candidates = lines.filter((line) => isAsked(line) && line.against === null);
  const found = best(candidates);
  const fixed = {
    weights: asked.weights === 'auto' ? 'f32' : asked.weights,
    kv: asked.kv === 'auto' ? 'f32' : asked.kv,
  } as const;
  if (found === undefined) return { ...fixed, reason: 'no format passes', lines };
  const plain = lines.find(({ weights, kv }) => weights === fixed.weights && kv === fixed.kv);
  const gain = (plain === undefined ? base : msOf(plain)) / msOf(found);
  const measured = `${accuracy.prompts} answers of ${accuracy.model} (${accuracy.task})`;
  if (found.weights === fixed.weights && found.kv === fixed.kv)
    return { ...fixed, reason: `the fastest of what keeps ${percent(LEAST_AGREEMENT)} of ${measured}`, lines };
  const needed = asked.weights === 'auto' ? LEAST_GAIN : LEAST_KV_GAIN;
  if (gain < needed)
    return {
      ...fixed,
      reason: `${nameOf(found)} is ${gain.toFixed(2)} times as fast at ${loadName}, less than the ${needed} that would be worth it`,
      lines,
    };
  const { weights, kv } = found;
  return {
    weights,
    kv,
    reason: `${gain.toFixed(2)} times as fast as ${nameOf(fixed)} at ${loadName}, and keeps ${percent(found.agreement ?? 1)} of ${measured}`,
    lines,
  };
}

function objection(
  { weights, kv, stepMs, agreement }: Pick<FormatLine, 'weights' | 'kv' | 'stepMs' | 'agreement'>,
  { faults }: Pick<PrecisionTable, 'faults'>,
): string | null {
  const fault = faults.weights[weights] ?? (kv === 'int8' ? faults.kv : null);
  if (fault !== null && fault !== undefined) return `computed wrongly here: ${fault}`;
  if (agreement === null) return 'accuracy not measured';
  if (agreement < LEAST_AGREEMENT) return `keeps fewer than ${percent(LEAST_AGREEMENT)} of answers`;
  if (stepMs === null) return 'not timed';
  return null;
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const nameOf = ({ weights, kv }: Pick<FormatLine, 'weights' | 'kv'>): string => `${weights} with ${kv} keys and values`;

/**
 * The table for a log or a terminal, the chosen line marked.
 * @param memoryBytes of the weights in a format
 */
export function describePrecision(
  { lines, weights, kv }: Pick<PrecisionDecision, 'lines' | 'weights' | 'kv'>,
  memoryBytes: (weights: WeightFormat) => number,
): string[] {
  const ms = (value: number | undefined): string => (value === undefined ? '-' : String(value));
  const rows = lines.map((line) => [
    line.weights === weights && line.kv === kv ? '*' : '',
    line.weights,
    line.kv,
    `${(memoryBytes(line.weights) / 2 ** 20).toFixed(1)}`,
    ms(line.stepMs?.[0]),
    ms(line.stepMs?.[1]),
    line.prefillTokensPerS === null ? '-' : String(line.prefillTokensPerS),
    line.agreement === null ? '-' : percent(line.agreement),
    line.gain === null ? '-' : `${line.gain.toFixed(2)}x`,
    line.against ?? '',
  ]);
  const all = [['', 'weights', 'kv', 'MiB', 'ms B1', 'ms B8', 'prefill tok/s', 'agreement', 'gain', ''], ...rows];
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)));
  return all.map((row) =>
    row
      .map((text, i) => text.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}
