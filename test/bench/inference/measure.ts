/** Alternating rounds over resident contenders. */
import { type Case, mixedRequests } from './cases.ts';
import type { Child } from './child.ts';
import type { Answer } from './contender.ts';
import { promptIds } from './model.ts';
import type { ContenderSpec } from './peers.ts';
import { Neighbours } from './quiet.ts';

export interface Running {
  readonly spec: ContenderSpec;
  readonly child: Child;
}

export interface CaseResult {
  /** Median over the windows: tokens a second; requests a second where requests are served. */
  readonly rate: number;
  /** Slowest and fastest window. */
  readonly low: number;
  readonly high: number;
  readonly windows: number;
  /** Median by the process's CPU time instead of the clock: what the rate would be with the processor to itself. */
  readonly cpuRate: number;
  /** Windows in which something else had the processor, after the retries. */
  readonly loud: number;
}

export interface Effort {
  readonly rounds: number;
  readonly windowMs: number;
  readonly longRounds: number;
}

/** A window counts as quiet when the process had its processor and the others were mostly idle. */
const OWN_SHARE = 0.95;
const OTHERS_SHARE = 0.25;
const RETRIES = 2;

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

interface Window {
  readonly rate: number;
  readonly cpuRate: number;
  readonly isLoud: boolean;
}

async function timed(call: () => Promise<Answer>, work: (answer: Answer) => number): Promise<Window> {
  const neighbours = new Neighbours();
  const answer = await call();
  const { ms = Number.NaN, cpuMs = Number.NaN } = answer;
  const isLoud = cpuMs < OWN_SHARE * ms || neighbours.share(cpuMs) > OTHERS_SHARE;
  const done = 1000 * work(answer);
  return { rate: done / ms, cpuRate: done / cpuMs, isLoud };
}

async function window(of: Case, { child }: Running, round: number, effort: Effort): Promise<Window> {
  const tokens = (answer: Answer): number => answer.tokens ?? Number.NaN;
  switch (of.kind) {
    case 'decode': {
      let last = await timed(() => child.call({ op: 'decode', ms: effort.windowMs }), tokens);
      for (let retry = 0; last.isLoud && retry < RETRIES; retry++)
        last = await timed(() => child.call({ op: 'decode', ms: effort.windowMs }), tokens);
      return last;
    }
    case 'prefill':
      // A new prompt each time, so that nobody finds it in a cache.
      return timed(
        () => child.call({ op: 'prefill', ids: promptIds(5000 + 100 * of.tokens + round, of.tokens) }),
        tokens,
      );
    case 'serve': {
      const requests = mixedRequests(of.requests);
      const expected = requests.reduce((sum, { newTokens }) => sum + newTokens, 0);
      return timed(
        () => child.call({ op: 'serve', requests }),
        ({ tokens: made }) => {
          if (made !== expected) throw new Error(`expected answers of ${expected} tokens in all, received ${made}`);
          return of.requests;
        },
      );
    }
  }
}

/** Measures one case for all contenders in turn, round by round. A contender that fails in it is told of and left out. */
export async function measureCase(
  of: Case,
  running: readonly Running[],
  effort: Effort,
  onFailure: (contender: Running, error: Error) => void,
): Promise<Map<Running, CaseResult>> {
  const failed = new Set<Running>();
  const attempt = async (one: Running, work: () => Promise<void>): Promise<void> => {
    if (failed.has(one)) return;
    try {
      await work();
    } catch (error) {
      failed.add(one);
      onFailure(one, error instanceof Error ? error : new Error(String(error)));
    }
  };
  const able = running.filter(({ spec }) => of.kind !== 'serve' || spec.group !== 'PyTorch f32');
  if (of.kind === 'decode')
    for (const one of able)
      await attempt(one, async () => {
        const prompts = Array.from({ length: of.rows }, (_, row) => promptIds(200 + row, of.context));
        await one.child.call({ op: 'prepare', prompts });
        await one.child.call({ op: 'decode', ms: 0 });
      });
  if (of.kind === 'prefill')
    for (const one of able)
      await attempt(one, async () => {
        await one.child.call({ op: 'prefill', ids: promptIds(4000, of.tokens) });
      });
  const windows = new Map<Running, Window[]>(able.map((one) => [one, []]));
  const rounds = of.kind === 'decode' ? effort.rounds : effort.longRounds;
  for (let round = 0; round < rounds; round++)
    for (const one of able)
      await attempt(one, async () => {
        windows.get(one)?.push(await window(of, one, round, effort));
      });
  if (of.kind === 'decode')
    for (const one of able)
      await attempt(one, async () => {
        await one.child.call({ op: 'finish' });
      });
  const results = new Map<Running, CaseResult>();
  for (const [one, list] of windows) {
    if (failed.has(one)) continue;
    const rates = list.map(({ rate }) => rate);
    results.set(one, {
      rate: median(rates),
      low: Math.min(...rates),
      high: Math.max(...rates),
      cpuRate: median(list.map(({ cpuRate }) => cpuRate)),
      windows: rates.length,
      loud: list.filter(({ isLoud }) => isLoud).length,
    });
  }
  return results;
}
