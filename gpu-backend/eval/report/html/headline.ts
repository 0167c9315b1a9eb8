/** The top of a report: what was asked of whom, the score among others, the criteria, and what stood in the way. */
import { coverageWords, isWhole } from '../coverage.ts';
import type { EvalReport } from '../schema.ts';
import { percent } from '../vision.ts';
import { type Bar, bars } from './charts.ts';
import { html, type Markup } from './markup.ts';

export function header({ title, model, run, spec, specHash, counts }: EvalReport): Markup {
  const about = [
    ...(run === null || run.name === '' ? [] : [`run ${run.name}`]),
    ...(run?.createdAt == null
      ? []
      : [`${new Date(1000 * run.createdAt).toISOString().slice(0, 16).replace('T', ' ')} UTC`]),
    ...(counts.withPictures === 0 ? [] : [spec.mode === 'merge' ? 'pictures merged into one' : 'pictures in sequence']),
  ];
  const labels = Object.entries(run?.metadata ?? {});
  return html`<div class="top"><h1>${title}</h1><p><strong>${model.name}</strong> <span class="soft">${about.map((words) => html`· ${words} `)}· specification <code>${specHash.slice(0, 12)}</code></span></p>${
    labels.length === 0
      ? null
      : html`<p>${labels.map(([name, value]) => html`<span class="chip">${name}: ${value}</span>`)}</p>`
  }</div>`;
}

export function headline(report: EvalReport): Markup {
  const { headline: own, counts, baseline, bootstrap } = report;
  const factList = html`<dl class="facts">${factsOf(report).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
  if (own === null)
    return html`<section><h2>Score</h2><p>${counts.items === 0 ? 'Nothing was asked.' : 'No reference is published for these questions: their answers can be handed in, not scored.'}</p>${factList}</section>`;
  const part = coverageWords(report);
  const anchors = isWhole(report) ? report.anchors : [];
  const marks = baseline.chance === null ? [] : [baseline.chance];
  const rows: Bar[] = [
    { label: report.model.name, value: own.mean, interval: own.interval, kind: 'own', text: percent(own.mean) },
    ...anchors.map(publishedBar),
    ...(baseline.majority === null
      ? []
      : [
          plainBar(
            `always “${baseline.majorityAnswer ?? ''}”`,
            baseline.majority,
            'the commonest right answer, given to every question',
          ),
        ]),
    ...(baseline.chance === null
      ? []
      : [
          plainBar(
            'guessing',
            baseline.chance,
            'one of the options of each question by chance; free answers are not guessed',
          ),
        ]),
  ];
  rows.sort((a, b) => b.value - a.value);
  const isGuessed = rows.some(({ kind }) => kind === 'random');
  return html`<section>${part === null ? null : html`<p class="note"><strong>Only a part of the benchmark was asked:</strong> ${part}.${report.anchors.length === 0 ? '' : ' Published scores are over all of it and do not compare.'}</p>`}
<div class="head"><div><div class="big">${percent(own.mean)}</div>
<p class="soft">${own.method === 'none' ? 'all answers are of one group: no interval can be given' : html`95 % interval ${percent(own.interval[0])} … ${percent(own.interval[1])}${own.standardError === null || own.standardError === 0 ? null : html`, standard error ${(100 * own.standardError).toFixed(2)}`}`}${
    bootstrap === null || bootstrap[0] === bootstrap[1]
      ? null
      : html`<br><span class="small">bootstrap: ${percent(bootstrap[0])} … ${percent(bootstrap[1])}</span>`
  }</p></div>${factList}</div>
${bars(rows, { caption: report.criteria.length > 1 ? 'Share of the items that pass all criteria' : report.criteria.length === 1 ? 'Share of the items that pass' : AGGREGATES[report.spec.aggregate], marks })}
<ul class="key"><li><i class="own"></i>this run, with its interval</li>${
    anchors.some(({ kind }) => kind === 'mantis') ? html`<li><i class="mantis"></i>published, Mantis</li>` : null
  }${anchors.some(({ kind }) => kind === 'model') ? html`<li><i></i>published, others</li>` : null}${
    isGuessed ? html`<li><i class="random"></i>without looking</li>` : null
  }${marks.length > 0 ? html`<li><i class="mark"></i>guessing</li>` : null}</ul>
${sourcesOf(anchors)}${part === null ? null : wholesOf(report.anchors)}</section>`;
}

const AGGREGATES = {
  records: 'Mean score over all answers',
  categories: 'Mean of the categories’ means',
  groups: 'Share of groups in which every answer is right',
} as const;

function factsOf({ counts, headline: own, usage }: EvalReport): [string, string][] {
  const some = (name: string, count: number): [string, string][] => (count > 0 ? [[name, String(count)]] : []);
  return [
    ['Questions', String(counts.records)],
    ['Answers that count', String(counts.scored)],
    ...(counts.items > counts.scored ? [['Asked in all', String(counts.items)] as [string, string]] : []),
    ...(own === null ? [] : [['Independent groups', String(own.clusters)] as [string, string]]),
    ...some('No answer read in', counts.unparsed),
    ...some('No answer or verdict', counts.errors),
    ...some('Reference not published', counts.withoutReference),
    ...(usage === null
      ? []
      : [['Tokens in + out', `${usage.promptTokens} + ${usage.completionTokens}`] as [string, string]]),
  ];
}

function publishedBar({ name, value, kind, source }: EvalReport['anchors'][number]): Bar {
  const label = kind === 'random' ? `${name.toLowerCase()}, as published` : name;
  return { label, value, kind, text: percent(value), note: `${label}: ${source}` };
}

function plainBar(label: string, value: number, note: string): Bar {
  return { label, value, kind: 'random', text: percent(value), note: `${label}: ${note}` };
}

function sourcesOf(anchors: EvalReport['anchors']): Markup | null {
  const sources = [...new Set(anchors.map(({ source }) => source))];
  return sources.length === 0 ? null : html`<p class="soft small">Published: ${sources.join('; ')}.</p>`;
}

/** Scores over the whole benchmark, apart from a part's. */
function wholesOf(anchors: EvalReport['anchors']): Markup | null {
  if (anchors.length === 0) return null;
  return html`<details><summary class="small">Published over the whole benchmark</summary><div class="gap"></div>${bars(
    anchors.map(publishedBar).sort((a, b) => b.value - a.value),
    { caption: 'Not comparable with the part above' },
  )}${sourcesOf(anchors)}</details>`;
}

/** Graders of one's own evaluation; the only one says no more than the headline, unless its scores are finer than passed or not. */
export function criteria({ criteria: all }: EvalReport): Markup | null {
  if (all.length === 0) return null;
  const score = (mean: number | null): string => (mean === null ? '–' : String(Number(mean.toFixed(3))));
  return html`<section><h2>Criteria</h2><div class="scroll"><table class="plain"><thead><tr><th>criterion</th><th>kind</th><th class="n">passed</th><th class="n">failed</th><th class="n">no verdict</th><th class="n">pass rate</th><th class="n">mean score</th><th class="n">95 % interval</th></tr></thead><tbody>${all.map(
    ({ name, type, passed, failed, errored, mean, interval }) =>
      html`<tr><th scope="row">${name}</th><td class="soft">${type}</td><td class="n">${passed}</td><td class="n">${failed}</td><td class="n">${errored}</td><td class="n">${passed + failed === 0 ? '–' : percent(passed / (passed + failed))}</td><td class="n">${score(mean)}</td><td class="n">${interval === null ? '' : `${score(interval[0])} … ${score(interval[1])}`}</td></tr>`,
  )}</tbody></table></div></section>`;
}

export function errors({ errors: all }: EvalReport): Markup | null {
  if (all.length === 0) return null;
  return html`<section><h2>Without an answer or a verdict</h2><table class="plain"><thead><tr><th>cause</th><th class="n">items</th></tr></thead><tbody>${all.map(
    ({ cause, items }) => html`<tr><th scope="row">${cause}</th><td class="n">${items}</td></tr>`,
  )}</tbody></table></section>`;
}
