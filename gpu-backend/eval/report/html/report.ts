import type { EvalReport, ReportPower } from '../schema.ts';
import type { Thumbnails } from '../thumbnails.ts';
import { percent, signed } from '../vision.ts';
import { type Bar, bars, confusion, reliability, withInterval } from './charts.ts';
import { wrongGallery } from './gallery.ts';
import { html, type Markup } from './markup.ts';
import { page, Sprites } from './page.ts';

/** A report as one HTML file that needs nothing else: no network, no other file. The same report and pictures give the same bytes. */
export function renderHtml(report: EvalReport, thumbnails: Thumbnails): string {
  const sprites = new Sprites(thumbnails);
  const body = html`${header(report)}
${headline(report)}
${vision(report)}
<div class="two">${categories(report)}${order(report)}${rotation(report)}${answers(report)}${calibration(report)}${power(report)}</div>
${wrongGallery(report.wrong, sprites)}
${specBox(report)}
<footer>Intervals are 95 %: Wilson's score interval on the effective number of independent answers, with the standard error clustered by group and Student's t. Specification ${report.specHash}.</footer>`;
  return page(`${report.title}: ${report.model.name}`, body, sprites.markup());
}

function header({ title, model, spec, specHash }: EvalReport): Markup {
  return html`<div class="top"><h1>${title}</h1><p><strong>${model.name}</strong> <span class="soft">· pictures in ${spec.mode} · specification <code>${specHash.slice(0, 12)}</code></span></p></div>`;
}

function headline(report: EvalReport): Markup {
  const { headline: own, counts, baseline, anchors, bootstrap } = report;
  const facts: [string, string][] = [
    ['Questions', String(counts.records)],
    ['Answers that count', String(counts.scored)],
    ...(counts.items > counts.scored ? [['Asked in all', String(counts.items)] as [string, string]] : []),
    ...(own === null ? [] : [['Independent groups', String(own.clusters)] as [string, string]]),
    ...(counts.unparsed > 0 ? [['Unread answers', String(counts.unparsed)] as [string, string]] : []),
    ...(counts.errors > 0 ? [['Without an answer', String(counts.errors)] as [string, string]] : []),
    ...(counts.withoutReference > 0
      ? [['Reference not published', String(counts.withoutReference)] as [string, string]]
      : []),
    ...(report.usage === null
      ? []
      : [['Tokens', `${report.usage.promptTokens} + ${report.usage.completionTokens}`] as [string, string]]),
  ];
  const factList = html`<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
  if (own === null)
    return html`<section><h2>Score</h2><p>No reference is published for these questions: their answers can be handed in, not scored.</p>${factList}</section>`;
  const marks = baseline.chance === null ? [] : [baseline.chance];
  const rows: (Bar & { value: number })[] = [
    {
      label: report.model.name,
      value: own.mean,
      interval: own.interval,
      kind: 'own' as const,
      text: percent(own.mean),
    },
    ...anchors.map(({ name, value, kind, source }) => ({
      label: name,
      value,
      kind,
      text: percent(value),
      note: source,
    })),
    ...(baseline.majority === null
      ? []
      : [
          {
            label: `always “${baseline.majorityAnswer ?? ''}”`,
            value: baseline.majority,
            kind: 'random' as const,
            text: percent(baseline.majority),
          },
        ]),
    ...(baseline.chance === null
      ? []
      : [{ label: 'guessing', value: baseline.chance, kind: 'random' as const, text: percent(baseline.chance) }]),
  ].sort((a, b) => b.value - a.value);
  const sources = [...new Set(anchors.map(({ source }) => source))];
  return html`<section><div class="head"><div><div class="big">${percent(own.mean)}</div>
<p class="soft">${own.method === 'none' ? 'all answers are of one group: no interval can be given' : html`95 % interval ${percent(own.interval[0])} … ${percent(own.interval[1])}${own.standardError === null ? null : html`, standard error ${(100 * own.standardError).toFixed(2)}`}`}${
    bootstrap === null
      ? null
      : html`<br><span class="small">bootstrap: ${percent(bootstrap[0])} … ${percent(bootstrap[1])}</span>`
  }</p></div>${factList}</div>
${bars(rows, { caption: AGGREGATES[report.spec.aggregate], marks })}
<ul class="key"><li><i class="own"></i>this run, with its interval</li>${
    anchors.some(({ kind }) => kind === 'mantis') ? html`<li><i class="mantis"></i>published, Mantis</li>` : null
  }${anchors.some(({ kind }) => kind === 'model') ? html`<li><i></i>published, others</li>` : null}<li><i class="random"></i>without looking</li>${
    marks.length > 0 ? html`<li><i class="mark"></i>guessing</li>` : null
  }</ul>
${sources.length > 0 ? html`<p class="soft small">Published: ${sources.join('; ')}.</p>` : null}</section>`;
}

const AGGREGATES = {
  records: 'Mean score over all answers',
  categories: 'Mean of the categories’ means',
  groups: 'Share of groups in which every answer is right',
} as const;

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
      text: `${percent(mean)}  ${signed(change.difference)}`,
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

function answers({ answers: found, counts }: EvalReport): Markup | null {
  if (counts.scored === 0) return null;
  const rows = [
    ...found.distribution,
    ...(found.others.given + found.others.expected > 0 ? [{ answer: 'others', ...found.others }] : []),
  ];
  return html`<section><h2>Answers</h2>
<table class="plain"><caption>Commonest answers</caption><thead><tr><th>answer</th><th class="n">given</th><th class="n">right</th></tr></thead><tbody>${rows.map(
    ({ answer, given, expected }) =>
      html`<tr><th scope="row" dir="auto">${answer}</th><td class="n">${given}</td><td class="n">${expected}</td></tr>`,
  )}</tbody></table>
${found.confusion === null ? null : html`<div class="gap"></div>${confusion(found.confusion)}`}
<div class="gap"></div><table class="plain"><caption>Rules that read the answers</caption><thead><tr><th>rule</th><th class="n">answers</th><th class="n">mean score</th></tr></thead><tbody>${found.rules.map(
    ({ rule, items, accuracy }) =>
      html`<tr><th scope="row">${rule}</th><td class="n">${items}</td><td class="n">${percent(accuracy)}</td></tr>`,
  )}</tbody></table></section>`;
}

function calibration({ calibration: found }: EvalReport): Markup | null {
  if (found === null) return null;
  return html`<section><h2>Is it as sure as it is right?</h2>${reliability(found)}
<p>Mean confidence ${percent(found.meanConfidence)}; expected calibration error ${(100 * found.expectedError).toFixed(1)} points; Brier score ${found.brier.toFixed(3)}.</p></section>`;
}

function power({ power: found, headline: own }: EvalReport): Markup | null {
  if (found === null || own === null) return null;
  const { sameQuestions, otherQuestions } = found;
  return html`<section><h2>What so many questions can tell</h2>
<p>Differences below <strong>${points(sameQuestions.smallestDifference)}</strong> to a model asked the same questions, or below ${points(otherQuestions.smallestDifference)} to a score on other questions, are likely to stay unseen (power 80 %, level 5 %).</p>
${powerTable(sameQuestions, otherQuestions)}
<p class="soft small">Same questions: correlation of the two means assumed 0.5; --compare measures it. ${own.items} answers are worth ${Math.round(own.effectiveItems)} independent ones${
    found.intraclassCorrelation === null
      ? null
      : html` (correlation within groups ${found.intraclassCorrelation.toFixed(2)})`
  }.</p></section>`;
}

function powerTable(same: ReportPower, other: ReportPower): Markup {
  return html`<table class="plain"><thead><tr><th>to see</th><th class="n">same questions</th><th class="n">other questions</th></tr></thead><tbody>${same.needed.map(
    ({ points: size, items }, i) =>
      html`<tr><th scope="row">${size} ${size === 1 ? 'point' : 'points'}</th><td class="n">${items} answers</td><td class="n">${other.needed[i]?.items ?? ''}</td></tr>`,
  )}</tbody></table>`;
}

function points(difference: number): string {
  return `${(100 * difference).toFixed(1)} points`;
}

export function specBox({ spec, specHash, model }: Pick<EvalReport, 'spec' | 'specHash' | 'model'>): Markup {
  return html`<section><details><summary>What was run, exactly</summary>
<p class="small">SHA-256 <code>${specHash}</code> over:</p><pre>${JSON.stringify(spec, null, 2)}</pre>
<p class="small">Model: <code>${model.identity}</code></p></details></section>`;
}
