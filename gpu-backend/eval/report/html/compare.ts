import { counted } from '../coverage.ts';
import { comparisonPowerWords } from '../power-words.ts';
import type { EvalComparison } from '../schema.ts';
import type { Thumbnails } from '../thumbnails.ts';
import { percent, signed } from '../vision.ts';
import { bars, withInterval } from './charts.ts';
import { pairedGallery } from './gallery.ts';
import { html, type Markup } from './markup.ts';
import { page, Sprites } from './page.ts';

/** `*` below 0.05, `**` below 0.01, `***` below 0.001. */
export function stars(pValue: number): string {
  return pValue < 0.001 ? '***' : pValue < 0.01 ? '**' : pValue < 0.05 ? '*' : '';
}

/** A p-value as people write it. */
export function written(pValue: number): string {
  return pValue < 0.001 ? 'p < 0.001' : `p = ${pValue.toFixed(3)}`;
}

/** Two runs side by side as one HTML file. */
export function renderComparisonHtml(comparison: EvalComparison, thumbnails: Thumbnails): string {
  const sprites = new Sprites(thumbnails);
  const { first, second, wins, losses, title } = comparison;
  const names: [string, string] = [first.label, second.label];
  const body = html`<div class="top"><h1>${title}</h1><p><strong>${names[0]}</strong> <span class="soft">and</span> <strong>${names[1]}</strong>${modelsOf(comparison)}</p></div>
${differing(comparison)}
${headline(comparison, names)}
<div class="two">${categories(comparison)}${power(comparison)}</div>
${pairedGallery('wins', `Won: ${names[1]} does better`, wins, names, sprites)}
${pairedGallery('losses', `Lost: ${names[0]} does better`, losses, names, sprites)}
<section><details><summary>What was run, exactly</summary><p class="small">${first.specHash === second.specHash ? html`Both <code>${first.specHash}</code>` : html`${names[0]}: <code>${first.specHash}</code><br>${names[1]}: <code>${second.specHash}</code>`}</p><pre>${JSON.stringify(comparison.spec, null, 2)}</pre><p class="small">${names[0]}: <code>${first.model.identity}</code><br>${names[1]}: <code>${second.model.identity}</code></p></details></section>
<footer>Interval of the difference: both means' Wilson intervals joined by their correlation over groups (MOVER), groups taken as dependent. Stars: Holm's p-values below 0.05, 0.01, 0.001.</footer>`;
  return page(`${title}: ${names[0]} and ${names[1]}`, body, sprites.markup());
}

/** Where the runs are called otherwise than their models. */
function modelsOf({ first, second }: EvalComparison): Markup | null {
  if (first.label === first.model.name && second.label === second.model.name) return null;
  if (first.model.name === second.model.name) return html` <span class="soft">· model ${first.model.name}</span>`;
  return html` <span class="soft">· models ${first.model.name} and ${second.model.name}</span>`;
}

function differing({ specDifferences, unpaired, first: one, second: other }: EvalComparison): Markup | null {
  if (specDifferences.length === 0) return null;
  return html`<section><h2>The two runs did different things</h2><p>Compared is what they share; their difference is not the models' alone.${unpaired.first + unpaired.second === 0 ? null : html` Without a partner: ${counted(unpaired.first, 'answer')} of ${one.label}, ${counted(unpaired.second, 'answer')} of ${other.label}.`}</p>
<table class="plain"><thead><tr><th>what</th><th>${one.label}</th><th>${other.label}</th></tr></thead><tbody>${specDifferences.map(
    ({ path, first, second }) =>
      html`<tr><th scope="row" class="path"><code>${path}</code></th><td>${first}</td><td>${second}</td></tr>`,
  )}</tbody></table></section>`;
}

function headline(
  { first, second, change, counts, pairs, clusters, verdict }: EvalComparison,
  names: [string, string],
): Markup {
  const sign = verdict.outcome === 'second' ? '' : verdict.outcome === 'first' ? 'bad' : 'neutral';
  const outcome = verdict.outcome === 'second' ? 'yes' : verdict.outcome === 'first' ? 'no' : 'unclear';
  const rows = [first, second].map(({ mean, interval }, i) => ({
    label: names[i] ?? '',
    value: mean,
    interval,
    kind: i === 1 ? ('own' as const) : ('model' as const),
    text: withInterval(mean, interval),
  }));
  return html`<section><div class="head"><div><div class="big ${sign}">${signed(change.difference)}</div><p class="soft">points, ${names[1]} less ${names[0]}<br>95 % interval ${signed(change.interval[0])} … ${signed(change.interval[1])}</p></div>
<dl class="facts"><div><dt>Pairs of answers</dt><dd>${pairs}</dd></div><div><dt>Independent groups</dt><dd>${clusters}</dd></div><div><dt>${change.test}</dt><dd>${written(change.pValue)}</dd></div>${
    change.correlation === null
      ? null
      : html`<div><dt>Correlation of the means</dt><dd>${change.correlation.toFixed(2)}</dd></div>`
  }</dl></div>
<p class="verdict ${outcome}">${verdict.words}</p>
${bars(rows, { caption: 'Both runs on the same questions' })}
${
  counts === null
    ? null
    : html`<div class="gap"></div><div class="scroll"><table class="heat"><caption>Who was right</caption><thead><tr><td></td>${['right', 'wrong'].map((what) => html`<th scope="col"><span title="${names[1]}">${names[1]}</span> ${what}</th>`)}</tr></thead><tbody><tr><th scope="row"><span title="${names[0]}">${names[0]}</span> right</th><td>${counts.both}</td><td>${counts.onlyFirst}</td></tr><tr><th scope="row"><span title="${names[0]}">${names[0]}</span> wrong</th><td>${counts.onlySecond}</td><td>${counts.neither}</td></tr></tbody></table></div>`
}</section>`;
}

function categories({ categories: all, first: one, second: two }: EvalComparison): Markup | null {
  if (all.length === 0) return null;
  const reach = Math.max(0.05, ...all.flatMap(({ interval }) => interval.map(Math.abs)));
  const rows = all
    .toSorted((a, b) => b.difference - a.difference || (a.name < b.name ? -1 : 1))
    .map(({ name, difference, interval, adjustedPValue, first, second, pairs }) => ({
      label: name.replaceAll('_', ' '),
      value: difference,
      interval,
      kind: adjustedPValue < 0.05 ? (difference > 0 ? ('good' as const) : ('bad' as const)) : ('model' as const),
      text: `${signed(difference)} ${stars(adjustedPValue)}`,
      note: `${name}: ${percent(first)} and ${percent(second)} of ${pairs}, Holm ${written(adjustedPValue)}`,
    }));
  return html`<section><h2>By category</h2>${bars(rows, { caption: `${two.label} less ${one.label}, points`, from: -reach, to: reach, hasZero: true })}</section>`;
}

function power(comparison: EvalComparison): Markup {
  const { power: found } = comparison;
  return html`<section><h2>What so many questions can tell</h2><p>${comparisonPowerWords(comparison)}</p>${
    found === null
      ? null
      : html`
<table class="plain"><thead><tr><th>to see</th><th class="n">answers</th><th class="n">groups</th></tr></thead><tbody>${found.needed.map(
          ({ points, items, clusters }) =>
            html`<tr><th scope="row">${counted(points, 'point')}</th><td class="n">${items}</td><td class="n">${clusters}</td></tr>`,
        )}</tbody></table>`
  }</section>`;
}
