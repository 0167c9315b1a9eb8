import type { EvalReport } from '../schema.ts';
import { percent } from '../vision.ts';
import { html, type Markup } from './markup.ts';

export interface Bar {
  readonly label: string;
  /** A share or a difference, in the units of `from` and `to`. */
  readonly value: number;
  readonly interval?: readonly [number, number];
  readonly kind: 'own' | 'model' | 'mantis' | 'random' | 'good' | 'bad';
  /** Written beside it. */
  readonly text: string;
  readonly note?: string;
}

export interface BarsOptions {
  readonly caption: string;
  readonly from?: number;
  readonly to?: number;
  /** Upright lines, such as guessing. */
  readonly marks?: readonly number[];
  /** An upright line at 0 of a difference. */
  readonly hasZero?: boolean;
}

/** Values on one scale, a row each: a table to screen readers, dots with their intervals to eyes. */
export function bars(
  rows: readonly Bar[],
  { caption, from = 0, to = 1, marks = [], hasZero = false }: BarsOptions,
): Markup {
  const place = (value: number): string =>
    `${(100 * Math.max(0, Math.min(1, (value - from) / (to - from)))).toFixed(2)}%`;
  const width = (low: number, high: number): string =>
    `${(100 * Math.max(0, Math.min(1, (Math.min(high, to) - Math.max(low, from)) / (to - from)))).toFixed(2)}%`;
  const isMixed = rows.some(({ kind }) => kind !== 'own');
  return html`<table class="bars"><caption>${caption}</caption><tbody>${rows.map(
    ({ label, value, interval, kind, text, note }) =>
      html`<tr class="${kind === 'own' && isMixed ? 'lead' : ''}"><th scope="row" title="${note ?? label}">${label}</th><td class="t"><div class="track" aria-hidden="true">${
        hasZero ? html`<i class="zero" style="left:${place(0)}"></i>` : null
      }${marks.map((mark) => html`<i class="mark" style="left:${place(mark)}"></i>`)}${
        interval === undefined
          ? null
          : html`<i class="range" style="left:${place(interval[0])};width:${width(interval[0], interval[1])}"></i>`
      }<i class="dot ${kind}" style="left:${place(value)}"></i></div></td><td class="n">${text}</td></tr>`,
  )}</tbody></table>`;
}

/** `72.5 %  (70.1 … 74.8)` */
export function withInterval(mean: number, interval: readonly [number, number]): string {
  return `${percent(mean)} (${(100 * interval[0]).toFixed(1)} … ${(100 * interval[1]).toFixed(1)})`;
}

/** Confidence against accuracy; the area of a dot shows how many answers it stands for. */
export function reliability(calibration: NonNullable<EvalReport['calibration']>): Markup {
  const most = Math.max(...calibration.bins.map(({ items }) => items));
  const [x, y] = [(share: number) => 34 + 250 * share, (share: number) => 260 - 250 * share];
  return html`<svg class="plot" viewBox="-16 -4 316 304" role="img" aria-label="Accuracy by confidence; on the dashed line both are equal">
<rect class="axis" x="34" y="10" width="250" height="250"/><line class="ideal" x1="34" y1="260" x2="284" y2="10"/>
${calibration.bins.map(
  ({ confidence, accuracy, items, from, to }) =>
    html`<circle class="own" cx="${x(confidence).toFixed(1)}" cy="${y(accuracy).toFixed(1)}" r="${(3 + 9 * Math.sqrt(items / most)).toFixed(1)}"><title>confidence ${from.toFixed(1)} … ${to.toFixed(1)}: ${items} answers, ${percent(accuracy)} right</title></circle>`,
)}
${[0, 0.5, 1].map((tick) => html`<text x="${x(tick)}" y="276" text-anchor="middle">${100 * tick}</text><text x="28" y="${y(tick) + 4}" text-anchor="end">${100 * tick}</text>`)}
<text x="159" y="294" text-anchor="middle">confidence, %</text><text x="-4" y="135" text-anchor="middle" transform="rotate(-90 -4 135)">right, %</text></svg>`;
}

/** References in rows, answers in columns. */
export function confusion({ labels, counts }: NonNullable<EvalReport['answers']['confusion']>): Markup {
  const hasUnread = counts.some((row) => (row.at(-1) ?? 0) > 0);
  const columns = hasUnread ? [...labels, 'nothing read'] : labels;
  return html`<div class="scroll"><table class="heat"><caption>Reference (rows) and answer (columns)</caption><thead><tr><td></td>${columns.map((label) => html`<th scope="col"><span title="${label}">${label}</span></th>`)}</tr></thead><tbody>${labels.map(
    (label, i) => {
      const row = counts[i] ?? [];
      const total = row.reduce((sum, count) => sum + count, 0) || 1;
      return html`<tr><th scope="row"><span title="${label}">${label}</span></th>${columns.map((_, j) => {
        const count = row[j] ?? 0;
        const colour = i === j ? 'var(--own)' : 'var(--bad)';
        return html`<td style="background:color-mix(in srgb,${colour} ${Math.round((55 * count) / total)}%,transparent)">${count}</td>`;
      })}</tr>`;
    },
  )}</tbody></table></div>`;
}
