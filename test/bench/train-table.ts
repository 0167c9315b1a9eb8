/** What train-throughput.ts keeps, and the README's table of it. */

/** This engine; transformers and PEFT as installed, with MKL unlocked, and with one conversation at a time as well. */
export type TrainEngine = 'mantis' | 'peft' | 'peft-unlocked' | 'peft-by-one';

export interface TrainSummary {
  /** Of the processor with one thread, else on the clock. */
  readonly stepMs: number;
  readonly wallMsPerStep: number;
  /** Decoder positions of the conversations, without padding. */
  readonly tokensPerSecond: number;
  readonly peakRssMb: number;
  readonly readyMs: number;
}

export interface TrainResult {
  readonly case: string;
  readonly about: string;
  readonly threads: number;
  /** Parameters that move. */
  readonly trained: number;
  readonly engines: { readonly mantis: TrainSummary } & Partial<Readonly<Record<TrainEngine, TrainSummary>>>;
  /** Tokens a second of this engine over those of a peer; null without it. */
  readonly vsStock: number | null;
  readonly vsUnlocked: number | null;
  readonly vsByOne: number | null;
  /** Peak memory of this engine over that of a peer. */
  readonly memoryRatio: number | null;
  readonly memoryByOne: number | null;
  readonly lossDifference: number;
}

export interface TrainResults {
  readonly cpu: string;
  readonly peerGemmGflops: Readonly<Record<string, number>>;
  readonly results: readonly TrainResult[];
}

const times = (x: number | null): string => (x === null ? '–' : `${x.toFixed(2)} ×`);

/** The table of the README, as Markdown. */
export function trainTable({ results }: TrainResults): string {
  const head = [
    'what moves',
    'tokens/s',
    'against PEFT',
    'MKL unlocked',
    'one by one, unlocked',
    'peak memory',
    "of PEFT's",
    "of one by one's",
  ];
  const rows = results.map((r) => [
    r.threads === 1 ? r.about : `${r.about}, ${r.threads} threads`,
    r.engines.mantis.tokensPerSecond.toFixed(0),
    times(r.vsStock),
    times(r.vsUnlocked),
    times(r.vsByOne),
    `${r.engines.mantis.peakRssMb.toFixed(0)} MB`,
    times(r.memoryRatio),
    times(r.memoryByOne),
  ]);
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
