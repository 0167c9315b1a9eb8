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
  /** What a reader of the table has to know of this run. */
  readonly note?: string;
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

/** Says how fast the peer's own matrix product is: the bound that no engine gets below by more than it leaves out. */
export function gemmSentence({ peerGemmGflops: gemm, note }: TrainResults): string {
  const [stock, unlocked] = [gemm['peft/1'], gemm['peft-unlocked/1']];
  return `The peer's matrix product alone runs at ${stock?.toFixed(0) ?? '–'} GFLOP/s as installed and ${unlocked?.toFixed(0) ?? '–'} unlocked.${note === undefined ? '' : ` ${note}`}`;
}

/** The README with this table, and this sentence, in its section. @throws Error when it has no such section */
export function withTrainTable(readme: string, results: TrainResults): string {
  const section = /(^### Training speed$[\s\S]*?)^\|[\s\S]*?\n(?=\n)\n[^\n]*\n/m;
  if (!section.test(readme)) throw new Error('README.md has no section "### Training speed" with a table');
  return readme.replace(
    section,
    (_, before: string) => `${before}${trainTable(results)}\n\n${gemmSentence(results)}\n`,
  );
}
