import { counted } from '../coverage.ts';
import { powerWords } from '../power-words.ts';
import type { EvalReport, ReportPower } from '../schema.ts';
import type { Thumbnails } from '../thumbnails.ts';
import { percent, signed } from '../vision.ts';
import { type Bar, bars, confusion, reliability, withInterval } from './charts.ts';
import { wrongGallery } from './gallery.ts';
import { criteria, errors, header, headline } from './headline.ts';
import { html, type Markup } from './markup.ts';
import { page, Sprites } from './page.ts';

/** A report as one HTML file that needs nothing else: no network, no other file. The same report and pictures give the same bytes. */
export function renderHtml(report: EvalReport, thumbnails: Thumbnails): string {
  const sprites = new Sprites(thumbnails);
  const body = html`${header(report)}
${headline(report)}
${criteria(report)}
${vision(report)}
<div class="two">${errors(report)}${categories(report)}${order(report)}${rotation(report)}${answers(report)}${calibration(report)}${power(report)}</div>
${wrongGallery(report.wrong, sprites, report.criteria.length > 0)}
${specBox(report)}
<footer>Intervals are 95 %: Wilson's score interval on the effective number of independent answers, with the standard error clustered by group and Student's t. Specification ${report.specHash}.</footer>`;
  return page(`${report.title}: ${report.model.name}`, body, sprites.markup());
}

function vision({ vision: seen, controls, baseline, headline: own }: EvalReport): Markup | null {
  if (seen === null) return null;
  const rows: Bar[] = [
    ...(own === null
      ? []
      : [
          { label: 'as asked', value: own.mean, interval: own.interval, kind: 'own' as const, text: percent(own.mean) },
        ]),
    ...controls.map(({ control, mean, interval, change }) => ({
      label: CONTROLS[control],
      value: mean,
      interval,
      kind: 'model' as const,
      text: `${percent(mean)} (${signed(change.difference)} points)`,
    })),
  ];
  return html`<section><h2>Does it use every picture?</h2>
<p class="verdict ${seen.verdict}">${seen.summary}</p>
<ul class="checks">${seen.checks.map(({ outcome, words }) => html`<li class="${outcome}">${words}</li>`)}</ul>
${controls.length === 0 ? null : html`<div class="gap"></div>${bars(rows, { caption: 'Accuracy when pictures are taken away', marks: baseline.chance === null ? [] : [baseline.chance] })}`}</section>`;
}

const CONTROLS = {
  'text-only': 'no pictures',
  blank: 'grey pictures',
  shuffled: 'pictures of others',
  'leave-one-out': 'one picture grey',
} as const;

function categories({ categories: all, headline: own }: EvalReport): Markup | null {
  if (all.length === 0) return null;
  const rows = all
    .toSorted((a, b) => b.mean - a.mean || (a.name < b.name ? -1 : 1))
    .map(({ name, mean, interval, items }) => ({
      label: name.replaceAll('_', ' '),
      value: mean,
      interval,
      kind: 'own' as const,
      text: `${percent(mean)} of ${items}`,
    }));
  return html`<section><h2>Categories</h2>${bars(rows, { caption: 'Mean score and 95 % interval', marks: own === null ? [] : [own.mean] })}<ul class="key"><li><i class="mark"></i>over all</li></ul></section>`;
}

function order({ imageOrder: found, spec }: EvalReport): Markup | null {
  if (found === null) return null;
  const rows = found.orders.map(({ order: name, mean, interval, items }) => ({
    label: name,
    value: mean,
    interval,
    kind: 'own' as const,
    text: `${percent(mean)} of ${items}`,
  }));
  const facts: [string, { mean: number; interval: readonly [number, number] }][] = [
    ['Same answer in every order', found.sameAnswer],
    ['Different in another order', found.flipped],
    ['Right in every order', found.allRight],
    ['Groups right throughout', found.groupsAllRight],
  ];
  return html`<section><h2>Order of the pictures</h2>${bars(rows, { caption: 'Accuracy by order' })}
<table class="plain"><caption>Consistency</caption><tbody>${facts.map(([name, { mean, interval }]) => html`<tr><th scope="row">${name}</th><td class="n">${withInterval(mean, interval)}</td></tr>`)}
${found.spread === 0 ? null : html`<tr><th scope="row">Best order less worst</th><td class="n">${(100 * found.spread).toFixed(1)} points</td></tr>`}</tbody></table>${
    spec.variants.protocolOrders === true
      ? null
      : html`<p class="soft small">Of questions that name pictures by their place or tell a story, another order is another question.</p>`
  }</section>`;
}

function rotation({ optionRotation: found }: EvalReport): Markup | null {
  if (found === null) return null;
  const rows = found.rotations.map(({ by, mean, interval }) => ({
    label: by === 0 ? 'as published' : `moved by ${by}`,
    value: mean,
    interval,
    kind: 'own' as const,
    text: percent(mean),
  }));
  return html`<section><h2>Places of the options</h2>${bars(rows, { caption: 'Accuracy by rotation' })}
<p>Right under every rotation (circular): <strong>${withInterval(found.circular.mean, found.circular.interval)}</strong></p>${
    found.letters.length === 0
      ? null
      : html`<table class="plain"><caption>Letters</caption><thead><tr><th></th><th class="n">answered</th><th class="n">right one</th><th class="n">found when right</th></tr></thead><tbody>${found.letters.map(
          ({ letter, given, expected, found: share }) =>
            html`<tr><th scope="row">${letter}</th><td class="n">${percent(given)}</td><td class="n">${percent(expected)}</td><td class="n">${percent(share)}</td></tr>`,
        )}</tbody></table>`
  }${found.recallDeviation === null ? null : html`<p class="soft small">Spread of the last column: ${(100 * found.recallDeviation).toFixed(1)} points; 0 means no favourite place.</p>`}</section>`;
}

function answers({ answers: found, counts, criteria: all }: EvalReport): Markup | null {
  if (counts.scored === 0) return null;
  const rows = [
    ...found.distribution,
    ...(found.others.given + found.others.expected > 0 ? [{ answer: 'others', ...found.others }] : []),
  ];
  return html`<section><h2>${rows.length === 0 ? 'Verdicts' : 'Answers'}</h2>
${
  rows.length === 0
    ? null
    : html`<table class="plain"><caption>Commonest answers</caption><thead><tr><th>answer</th><th class="n">given</th><th class="n">right</th></tr></thead><tbody>${rows.map(
        ({ answer, given, expected }) =>
          html`<tr><th scope="row" dir="auto">${answer}</th><td class="n">${given}</td><td class="n">${expected}</td></tr>`,
      )}</tbody></table><div class="gap"></div>`
}
${found.confusion === null ? null : html`${confusion(found.confusion)}<div class="gap"></div>`}
<table class="plain"><caption>${all.length > 0 ? 'What decided' : 'Rules that read the answers'}</caption><thead><tr><th>${all.length > 0 ? 'verdict' : 'rule'}</th><th class="n">answers</th><th class="n">mean score</th></tr></thead><tbody>${found.rules.map(
    ({ rule, items, accuracy }) =>
      html`<tr><th scope="row">${rule}</th><td class="n">${items}</td><td class="n">${percent(accuracy)}</td></tr>`,
  )}</tbody></table></section>`;
}

function calibration({ calibration: found }: EvalReport): Markup | null {
  if (found === null) return null;
  return html`<section><h2>Is it as sure as it is right?</h2>${reliability(found)}
<p>Mean confidence ${percent(found.meanConfidence)}; expected calibration error ${(100 * found.expectedError).toFixed(1)} points; Brier score ${found.brier.toFixed(3)}.</p></section>`;
}

function power(report: EvalReport): Markup | null {
  const { power: found, headline: own } = report;
  const words = powerWords(report);
  if (own === null || words === null) return null;
  return html`<section><h2>What so many questions can tell</h2>
<p>${words}</p>${
    found === null
      ? null
      : html`
${powerTable(found.sameQuestions, found.otherQuestions)}
<p class="soft small">Same questions: correlation of the two means assumed 0.5; a comparison of two runs measures it. ${own.items} answers are worth ${Math.round(own.effectiveItems)} independent ones${
          found.intraclassCorrelation === null
            ? null
            : html` (correlation within groups ${found.intraclassCorrelation.toFixed(2)})`
        }.</p>`
  }</section>`;
}

function powerTable(same: ReportPower, other: ReportPower): Markup {
  return html`<table class="plain"><thead><tr><th>to see</th><th class="n">same questions</th><th class="n">other questions</th></tr></thead><tbody>${same.needed.map(
    ({ points: size, items }, i) =>
      html`<tr><th scope="row">${counted(size, 'point')}</th><td class="n">${counted(items, 'answer')}</td><td class="n">${other.needed[i]?.items ?? ''}</td></tr>`,
  )}</tbody></table>`;
}

export function specBox({ spec, specHash, model }: Pick<EvalReport, 'spec' | 'specHash' | 'model'>): Markup {
  return html`<section><details><summary>What was run, exactly</summary>
<p class="small">SHA-256 <code>${specHash}</code> over:</p><pre>${JSON.stringify(spec, null, 2)}</pre>
<p class="small">Model: <code>${model.identity}</code></p></details></section>`;
}
