/**
 * Counters and histograms as plain numbers in memory. What an isolate has counted since it last told is a `Delta`; deltas add up in one place. Nothing
 * here knows of time, network or the runtime.
 */

/** What is counted: its Prometheus name without prefix, what it means, and its label names in the order in which values are given. */
export type Definition = {
  readonly name: string;
  readonly help: string;
  readonly labels: readonly string[];
  /** Upper bounds, ascending, without +Inf; absent: a counter. */
  readonly buckets?: readonly number[];
};

/** By metric name, then by label values joined by `SEPARATOR`: a counter's increase, or a histogram's `[…buckets, +Inf, sum]`. */
export type Delta = Record<string, Record<string, number | number[]>>;

/** Stands in no label value. */
const SEPARATOR = '\u001f';

/** Labels are of low cardinality by design; should one not be, what is beyond this many series is counted under `other`. */
const MAX_SERIES = 1_000;

/** Counts that only grow. */
export class Counter {
  readonly #series = new Map<string, number>();

  constructor(readonly definition: Definition) {}

  /** @param labels in the definition's order */
  inc(by: number, ...labels: readonly string[]): void {
    const key = boundedKey(this.#series, labels);
    this.#series.set(key, (this.#series.get(key) ?? 0) + by);
  }

  take(): Record<string, number> {
    const taken = Object.fromEntries(this.#series);
    this.#series.clear();
    return taken;
  }
}

/** How often values fell under each bound. */
export class Histogram {
  readonly #series = new Map<string, number[]>();
  readonly #buckets: readonly number[];

  constructor(readonly definition: Definition) {
    this.#buckets = definition.buckets ?? [];
  }

  /** @param labels in the definition's order */
  observe(value: number, ...labels: readonly string[]): void {
    const buckets = this.#buckets;
    const key = boundedKey(this.#series, labels);
    let counts = this.#series.get(key);
    if (counts === undefined) {
      counts = new Array<number>(buckets.length + 2).fill(0);
      this.#series.set(key, counts);
    }
    let at = 0;
    while (at < buckets.length && value > (buckets[at] as number)) at++;
    counts[at] = (counts[at] as number) + 1;
    counts[buckets.length + 1] = (counts[buckets.length + 1] as number) + value;
  }

  take(): Record<string, number[]> {
    const taken = Object.fromEntries(this.#series);
    this.#series.clear();
    return taken;
  }
}

function boundedKey(series: ReadonlyMap<string, unknown>, labels: readonly string[]): string {
  const key = labels.length === 1 ? (labels[0] as string) : labels.join(SEPARATOR);
  return series.size < MAX_SERIES || series.has(key) ? key : labels.map(() => 'other').join(SEPARATOR);
}

/** Everything the given metrics have counted since they were last asked; null where that is nothing. */
export function takeDelta(metrics: Iterable<Counter | Histogram>): Delta | null {
  const delta: Delta = {};
  let any = false;
  for (const metric of metrics) {
    const series = metric.take();
    if (Object.keys(series).length === 0) continue;
    delta[metric.definition.name] = series;
    any = true;
  }
  return any ? delta : null;
}

/** Adds `delta` to `totals`, in place. */
export function addDelta(totals: Delta, delta: Delta): void {
  for (const [name, series] of Object.entries(delta)) {
    const sums = totals[name] ?? {};
    totals[name] = sums;
    for (const [key, value] of Object.entries(series)) {
      const sum = sums[key];
      if (typeof value === 'number') sums[key] = (typeof sum === 'number' ? sum : 0) + value;
      // Bounds that a new version has changed begin anew.
      else if (Array.isArray(sum) && sum.length === value.length) sums[key] = sum.map((n, i) => n + (value[i] ?? 0));
      else sums[key] = [...value];
    }
  }
}

/** A level, or a sum that is kept elsewhere, read when somebody asks. */
export type Gauge = {
  readonly type?: 'gauge' | 'counter';
  readonly name: string;
  readonly help: string;
  readonly values: readonly { readonly labels: Readonly<Record<string, string>>; readonly value: number }[];
};

/** Prometheus text format 0.0.4. @param prefix of every name, `mantis_edge_` */
export function renderPrometheus(
  prefix: string,
  definitions: readonly Definition[],
  totals: Delta,
  gauges: readonly Gauge[],
): string {
  const lines: string[] = [];
  const head = (name: string, help: string, type: string) =>
    lines.push(`# HELP ${prefix}${name} ${help.replaceAll('\\', '\\\\')}`, `# TYPE ${prefix}${name} ${type}`);
  for (const { name, help, labels, buckets } of definitions) {
    head(name, help, buckets === undefined ? 'counter' : 'histogram');
    const series = totals[name] ?? {};
    // A counter without labels is there from the start, so that its first increase is seen as one.
    const entries = labels.length === 0 && series[''] === undefined ? [['', zeroOf(buckets)] as const] : [];
    for (const [key, value] of [...entries, ...Object.entries(series)]) {
      const values = key.split(SEPARATOR);
      const pairs = labels.map((label, i) => pair(label, values[i] ?? ''));
      if (typeof value === 'number') lines.push(`${prefix}${name}${braces(pairs)} ${value}`);
      else if (buckets !== undefined) lines.push(...histogramLines(`${prefix}${name}`, pairs, buckets, value));
    }
  }
  for (const { name, help, values, type = 'gauge' } of gauges) {
    head(name, help, type);
    for (const { labels, value } of values)
      lines.push(
        `${prefix}${name}${braces(Object.entries(labels).map(([label, text]) => pair(label, text)))} ${value}`,
      );
  }
  return `${lines.join('\n')}\n`;
}

function zeroOf(buckets: readonly number[] | undefined): number | number[] {
  return buckets === undefined ? 0 : new Array<number>(buckets.length + 2).fill(0);
}

function histogramLines(
  name: string,
  pairs: readonly string[],
  buckets: readonly number[],
  counts: readonly number[],
): string[] {
  const lines: string[] = [];
  let sum = 0;
  for (let i = 0; i <= buckets.length; i++) {
    sum += counts[i] ?? 0;
    const le = i === buckets.length ? '+Inf' : String(buckets[i]);
    lines.push(`${name}_bucket${braces([...pairs, pair('le', le)])} ${sum}`);
  }
  lines.push(`${name}_sum${braces(pairs)} ${counts[buckets.length + 1] ?? 0}`, `${name}_count${braces(pairs)} ${sum}`);
  return lines;
}

function pair(label: string, value: string): string {
  return `${label}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
}

function braces(pairs: readonly string[]): string {
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}
