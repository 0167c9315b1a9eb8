import { CASES, type Case, GROUPS, type Group } from './cases.ts';
import type { ContenderReport, Ratio } from './report.ts';

/** What `inference.ts --save` stores. */
export interface Stored {
  readonly cpu: string;
  readonly threads: number;
  readonly versions: Readonly<Record<string, string>>;
  readonly contenders: Readonly<Record<string, ContenderReport>>;
  readonly ratios: readonly Ratio[];
}

interface Bar {
  readonly group: Group;
  readonly label: string;
  readonly rate: number;
  /** Ours over this one's; null for ours. */
  readonly ratio: number | null;
}

const TITLES: Readonly<Record<string, readonly [string, string]>> = {
  'decode-b1-128': ['1 user', '128 tokens of context'],
  'decode-b8-128': ['8 users', '128 tokens of context'],
  'decode-b1-1984': ['1 user', '1,984 tokens of context'],
  'decode-b8-1984': ['8 users', '1,984 tokens of context'],
  'prefill-512': ['Reading a prompt', '512 tokens'],
  'prefill-2048': ['Reading a prompt', '2,048 tokens'],
  'served-48': ['48 mixed requests', 'queued at once'],
};

const CLASS: Readonly<Record<string, string>> = {
  ours: 'ours',
  'transformers.js': 'p1',
  'llama.cpp Q4_0': 'p2',
  'PyTorch f32': 'p3',
};

/** Layout, in SVG units; GitHub shows README images at up to about 830 pixels. */
const WIDTH = 830;
const LEFT = 196;
const BAR = 15;
const GAP = 4;
const BLOCK_GAP = 22;
const COLUMN = 400;
/** Room behind the longest bar for its numbers. */
const NUMBERS = 150;

const escaped = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c] ?? c);

function text(x: number, y: number, content: string, style = '', anchor = 'start'): string {
  return `<text x="${x}" y="${y}" class="${style}"${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}>${escaped(content)}</text>`;
}

const number = (rate: number): string =>
  rate >= 100 ? Math.round(rate).toLocaleString('en-US') : rate >= 10 ? rate.toFixed(0) : rate.toFixed(1);

function barsOf({ id }: Case, { contenders, ratios }: Stored): Bar[] {
  const fastest = (group: Group): { name: string; rate: number } | null =>
    Object.entries(contenders).reduce<{ name: string; rate: number } | null>((best, [name, one]) => {
      const rate = one.group === group ? one.cases[id]?.rate : undefined;
      return rate === undefined || (best !== null && best.rate >= rate) ? best : { name, rate };
    }, null);
  const groups: readonly Group[] = ['ours', ...GROUPS];
  return groups.flatMap((group) => {
    const best = fastest(group);
    if (best === null) return [];
    const ratio = ratios.find((one) => one.case === id && one.against === group)?.ratio ?? null;
    return [{ group, label: label(group, best.name), rate: best.rate, ratio }];
  });
}

/** Name of a bar: the engine, and the format that was its fastest here. */
function label(group: Group, name: string): string {
  if (group === 'ours') return `mantis-edge ${name.slice('ours '.length).replace('/', ', kv ')}`;
  if (group === 'transformers.js') return name.replace(/ (gqa|concat) /, ' $1 ');
  return group;
}

/** One case: heading at the left, bars, numbers at their ends. Its own scale, since cases differ by orders of magnitude. */
function block(of: Case, bars: readonly Bar[], y: number): string {
  const most = Math.max(...bars.map(({ rate }) => rate));
  const [head = of.id, sub = ''] = TITLES[of.id] ?? [];
  const unit = of.kind === 'serve' ? 'requests/s' : 'tokens/s';
  const lines = bars.map((bar, i) => {
    const top = y + i * (BAR + GAP);
    const length = Math.max(2, (bar.rate / most) * (WIDTH - LEFT - COLUMN / 2 - NUMBERS));
    const start = LEFT + COLUMN / 2 - 40;
    const value = number(bar.rate) + (bar.group === 'ours' ? ` ${unit}` : '');
    const isBehind = bar.ratio !== null && bar.ratio < 1;
    const ratio =
      bar.ratio === null
        ? ''
        : `<tspan class="${isBehind ? 'behind' : 'ahead'}" dx="8">${bar.ratio.toFixed(bar.ratio < 10 ? 2 : 1)}×</tspan>`;
    return (
      text(start - 8, top + BAR - 3, bar.label, bar.group === 'ours' ? 'name own' : 'name', 'end') +
      `<rect x="${start}" y="${top}" width="${length.toFixed(1)}" height="${BAR}" rx="2" class="${CLASS[bar.group] ?? 'p1'}"/>` +
      `<text x="${(start + length + 7).toFixed(1)}" y="${top + BAR - 3}" class="${bar.group === 'ours' ? 'value own' : 'value'}">${value}${ratio}</text>`
    );
  });
  return `${text(16, y + 12, head, 'head')}${text(16, y + 29, sub, 'sub')}${lines.join('')}`;
}

function section(title: string, y: number): string {
  return `${text(16, y, title, 'section')}<line x1="16" x2="${WIDTH - 16}" y1="${y + 8}" y2="${y + 8}" class="rule"/>`;
}

/** The whole chart as one SVG document; colours follow the reader's light or dark scheme. */
export function inferenceChart(stored: Stored): string {
  const parts: string[] = [];
  let y = 84;
  for (const [title, kind] of [
    ['Decoding: new tokens a second, all users together', 'decode'],
    ['Prefill: prompt tokens a second', 'prefill'],
    ['Serving: requests a second', 'serve'],
  ] as const) {
    const shown = CASES.filter((of) => of.kind === kind).map((of) => [of, barsOf(of, stored)] as const);
    if (shown.every(([, bars]) => bars.length === 0)) continue;
    parts.push(section(title, y));
    y += 26;
    for (const [of, bars] of shown) {
      if (bars.length === 0) continue;
      parts.push(block(of, bars, y));
      y += Math.max(2, bars.length) * (BAR + GAP) + BLOCK_GAP - GAP;
    }
    y += 12;
  }
  const versions = Object.entries(stored.versions).map(([name, version]) => `${name} ${version}`);
  const notes = [
    `${stored.cpu}, ${stored.threads === 1 ? '1 thread' : `${stored.threads} threads`}; decoder of SmolLM2-135M's size, random weights; medians of alternating windows.`,
    `${versions.join(', ')}.`,
  ];
  const height = y + 16 * notes.length + 8;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-labelledby="title">
<title id="title">Inference rates of mantis-edge, transformers.js, llama.cpp and PyTorch on one CPU thread</title>
<style>
text { font: 12px -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #3d444d; }
.title { font-size: 19px; font-weight: 600; fill: #1f2328; }
.section { font-size: 13px; font-weight: 600; fill: #1f2328; }
.head { font-size: 13px; font-weight: 600; fill: #1f2328; }
.sub, .note { fill: #59636e; }
.note { font-size: 11px; }
.own { font-weight: 600; fill: #1f2328; }
.value { font-variant-numeric: tabular-nums; }
.ahead { font-weight: 600; fill: #1a7f37; }
.behind { font-weight: 600; fill: #bc4c00; }
.rule { stroke: #d1d9e0; }
.card { fill: #ffffff; stroke: #d1d9e0; }
.ours { fill: #0969da; } .p1 { fill: #8c959f; } .p2 { fill: #a9b1b9; } .p3 { fill: #c5ccd3; }
@media (prefers-color-scheme: dark) {
text, .name { fill: #c9d1d9; } .title, .section, .head, .own { fill: #f0f6fc; } .sub, .note { fill: #9198a1; }
.ahead { fill: #3fb950; } .behind { fill: #db6d28; } .rule { stroke: #3d444d; } .card { fill: #0d1117; stroke: #3d444d; }
.ours { fill: #4493f8; } .p1 { fill: #7d8590; } .p2 { fill: #656c76; } .p3 { fill: #4d545d; }
}
</style>
<rect x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" rx="8" class="card"/>
${text(16, 34, 'One CPU thread, the same model in four engines', 'title')}
${text(16, 54, 'Longer is faster; every case has its own scale. × = rate of mantis-edge over the rate of that engine, in its fastest format.', 'sub')}
${parts.join('\n')}
${notes.map((note, i) => text(16, y + 16 * i, note, 'note')).join('\n')}
</svg>
`;
}
