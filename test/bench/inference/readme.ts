/** The README's section about inference speed, made from stored results; `test/repo/readme.test.ts` compares. */
import type { ContenderReport, Ratio } from './report.ts';

export interface InferenceResults {
  readonly cpu: string;
  readonly threads: number;
  readonly contenders: Readonly<Record<string, ContenderReport>>;
  readonly ratios: readonly Ratio[];
}

const CASES: readonly (readonly [id: string, name: string])[] = [
  ['decode-b1-128', '1 answer, 128 tokens of context'],
  ['decode-b8-128', '8 answers at once, 128'],
  ['decode-b1-1984', '1 answer, 1,984'],
  ['decode-b8-1984', '8 answers at once, 1,984'],
  ['prefill-512', 'a prompt of 512 tokens'],
  ['prefill-2048', 'a prompt of 2,048 tokens'],
  ['served-48', '48 mixed requests at once'],
];
const AGAINST = ['llama.cpp Q4_0', 'transformers.js', 'PyTorch f32'] as const;

const rate = (value: number): string =>
  value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(value >= 10 ? 1 : 2);

/** Markdown table: a row a case, the fastest of our formats, and how many times the peer's fastest it is. */
export function inferenceTable({ contenders, ratios }: InferenceResults): string {
  const rows = CASES.map(([id, name]) => {
    const of = (against: string): Ratio | undefined =>
      ratios.find((ratio) => ratio.case === id && ratio.against === against);
    const best = AGAINST.map(of).find((ratio) => ratio !== undefined);
    if (best === undefined) throw new Error(`the results have no ratio of ${id}`);
    const own = contenders[best.ours]?.cases[id]?.rate ?? Number.NaN;
    const format = best.ours.replace(/^ours /, '');
    const unit = id === 'served-48' ? 'requests/s' : 'tokens/s';
    const times = AGAINST.map((against) => {
      const ratio = of(against);
      if (ratio === undefined) return '–';
      return `${ratio.ratio.toFixed(2)} ×${ratio.ok ? '' : ` (goal ${ratio.bar})`}`;
    });
    return `| ${[name, `${rate(own)} ${unit}, ${format}`, ...times].join(' | ')} |`;
  });
  return [
    `| what | mantis-edge, fastest format (weights/cache) | ${AGAINST.map((name) => `against ${name}`).join(' | ')} |`,
    `| --- | --- | ${AGAINST.map(() => '---').join(' | ')} |`,
    ...rows,
  ].join('\n');
}
