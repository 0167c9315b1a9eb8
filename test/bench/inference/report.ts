/** Rates to ratios, and both to text. */
import { BARS, CASES, GROUPS, type Group } from './cases.ts';
import type { CaseResult } from './measure.ts';

export interface ContenderReport {
  readonly group: Group;
  /** Rates by case id. */
  readonly cases: Readonly<Record<string, CaseResult>>;
  /** Largest resident memory, while loading and while running. */
  readonly loadRssMb: number;
  readonly peakRssMb: number;
  /** Error of log-probabilities against the f32 model, as a share of their standard deviation. */
  readonly logprobError: number;
}

export interface Ratio {
  readonly case: string;
  readonly against: Group;
  /** Contenders whose rates are compared: the fastest of ours and the peer's fastest. */
  readonly ours: string;
  readonly peer: string;
  readonly ratio: number;
  readonly bar: number;
  readonly ok: boolean;
}

/** Rates by the clock, or by CPU time where the machine is not quiet (one thread only). */
export type Clock = 'rate' | 'cpuRate';

function fastest(
  contenders: Readonly<Record<string, ContenderReport>>,
  group: Group,
  id: string,
  clock: Clock,
): { readonly name: string; readonly rate: number } | null {
  const rates = Object.entries(contenders).flatMap(([name, one]) => {
    const rate = one.group === group ? one.cases[id]?.[clock] : undefined;
    return rate === undefined ? [] : [{ name, rate }];
  });
  return rates.reduce<{ name: string; rate: number } | null>(
    (best, one) => (best === null || one.rate > best.rate ? one : best),
    null,
  );
}

export function ratios(contenders: Readonly<Record<string, ContenderReport>>, clock: Clock = 'rate'): Ratio[] {
  return GROUPS.flatMap((group) =>
    CASES.flatMap(({ id }, index) => {
      const bar = BARS[group][index] ?? null;
      const ours = fastest(contenders, 'ours', id, clock);
      const peer = fastest(contenders, group, id, clock);
      if (bar === null || ours === null || peer === null) return [];
      const ratio = Number((ours.rate / peer.rate).toFixed(3));
      return [{ case: id, against: group, ours: ours.name, peer: peer.name, ratio, bar, ok: ratio >= bar }];
    }),
  );
}

const short = (rate: number): string => (rate < 10 ? rate.toFixed(2) : rate < 100 ? rate.toFixed(1) : rate.toFixed(0));

/** Rates of all contenders, one line each; then the ratios with their bars. */
export function table(
  contenders: Readonly<Record<string, ContenderReport>>,
  list: readonly Ratio[],
  clock: Clock = 'rate',
): string {
  const ids = CASES.map(({ id }) => id).filter((id) => Object.values(contenders).some(({ cases }) => id in cases));
  const width = Math.max(30, ...Object.keys(contenders).map((name) => name.length + 2));
  const line = (first: string, cells: readonly string[]): string =>
    first.padEnd(width) + cells.map((cell, i) => cell.padStart((ids[i] ?? '').length + 3 > 15 ? 17 : 15)).join('');
  const rows = Object.entries(contenders).map(([name, { cases, loadRssMb, peakRssMb, logprobError }]) => {
    const cells = ids.map((id) => {
      const result = cases[id];
      return result === undefined ? '-' : `${short(result[clock])}${result.loud > 0 ? '~' : ''}`;
    });
    return line(name, [
      ...cells,
      `${loadRssMb.toFixed(0)} ${peakRssMb.toFixed(0)}`,
      `${(100 * logprobError).toFixed(1)} %`,
    ]);
  });
  const bars = GROUPS.flatMap((group) => {
    const own = list.filter(({ against }) => against === group);
    if (own.length === 0) return [];
    const cells = ids.map((id) => {
      const one = own.find((ratio) => ratio.case === id);
      return one === undefined ? '-' : `${one.ok ? '' : 'MISS '}${one.ratio.toFixed(2)}/${one.bar}`;
    });
    return [line(`ratio/bar ${group}`, cells)];
  });
  return [
    `tokens a second${clock === 'cpuRate' ? ' of CPU time' : ''}; served: requests a second; ~ = some windows were not quiet; RSS: peaks in MB`,
    line('', [...ids, 'RSS load run', 'error']),
    ...rows,
    '',
    ...bars,
  ].join('\n');
}
