import { counted, questions } from '../coverage.ts';
import { letterIn } from '../rotation.ts';
import type { PairedAnswer, WrongAnswer } from '../schema.ts';
import { html, type Markup } from './markup.ts';
import type { Sprites } from './page.ts';

/** Wrong answers with their pictures, and what can be filtered by. @param isOwn criteria of one's own judged them */
export function wrongGallery(
  { total, unanswered, shown }: { total: number; unanswered: number; shown: readonly WrongAnswer[] },
  sprites: Sprites,
  isOwn = false,
): Markup {
  if (total + unanswered === 0) return html`<section><h2>Wrong answers</h2><p>None.</p></section>`;
  const without = unanswered === 0 ? null : html`, ${questions(unanswered)} without an answer or a verdict`;
  return html`<section><h2>Wrong answers</h2>
<p class="soft small">${questions(total)} with a wrong answer${without}${
    shown.length < total + unanswered
      ? html`; shown are ${shown.length} of them, drawn by the digest of their ids`
      : null
  }.</p>
${filters('wrong', shown, isOwn)}
<div class="gallery" id="wrong">${shown.map(
    (
      one,
    ) => html`<article data-category="${one.category ?? ''}" data-rule="${one.rule}" data-given="${one.parsed ?? ''}">
${questionParts(one, sprites)}
<dl class="answers">${given(one)}${
      one.reference === null ? null : html`<dt>Right</dt><dd class="good">${one.reference}</dd>`
    }${one.score > 0 ? html`<dt>Score</dt><dd>${one.score.toFixed(2)}</dd>` : null}</dl>${
      one.asked > 1
        ? html`<p class="soft small">Wrong in ${one.wrong} of ${one.asked} orders of its pictures${one.wrong < one.asked ? '; the first of these is shown' : ''}.</p>`
        : null
    }</article>`,
  )}</div></section>`;
}

/** The answer and what was read in it; once where that is the same. What was not read has a reason. */
function given({ answer, parsed, rule, error }: WrongAnswer): Markup {
  const isPlain = parsed === answer;
  const said =
    answer === ''
      ? null
      : html`<dt>Answer</dt><dd class="${isPlain ? 'bad' : ''}">${answer}${isPlain ? html` <span class="soft small">(${rule})</span>` : null}</dd>`;
  if (error !== null)
    return html`${said}<dt>${answer === '' ? 'No answer' : 'No verdict'}</dt><dd class="bad">${error}</dd>`;
  return html`${said}${
    isPlain && said !== null
      ? null
      : html`<dt>Read as</dt><dd class="bad">${parsed ?? 'nothing'} <span class="soft small">(${rule})</span></dd>`
  }`;
}

/** Questions that one of two models alone got right. */
export function pairedGallery(
  id: string,
  title: string,
  { total, shown }: { total: number; shown: readonly PairedAnswer[] },
  names: readonly [string, string],
  sprites: Sprites,
): Markup {
  if (total === 0) return html`<section><h2>${title}</h2><p>None.</p></section>`;
  const answer = (name: string, given: PairedAnswer['first']) =>
    html`<dt>${name}</dt><dd>${given.answer} <span class="${given.score >= 1 ? 'good' : 'bad'}">${given.score >= 1 ? '✓' : given.score > 0 ? given.score.toFixed(2) : '✗'}</span> <span class="soft small">(${given.parsed ?? 'nothing'}, ${given.rule})</span></dd>`;
  return html`<section><h2>${title}</h2>
<p class="soft small">${counted(total, 'answer')}${shown.length < total ? html`; shown are ${shown.length} of them, drawn by the digest of their ids` : null}.</p>
${filters(id, shown)}
<div class="gallery" id="${id}">${shown.map(
    (one) => html`<article data-category="${one.category ?? ''}">
${questionParts(one, sprites)}
<dl class="answers">${answer(names[0], one.first)}${answer(names[1], one.second)}${
      one.reference === null ? null : html`<dt>Right</dt><dd class="good">${one.reference}</dd>`
    }</dl></article>`,
  )}</div></section>`;
}

type Question = Pick<WrongAnswer, 'record' | 'category' | 'question' | 'options' | 'images' | 'reference'>;

function questionParts({ record, category, question, options, images, reference }: Question, sprites: Sprites): Markup {
  return html`<p class="chips">${category === null ? null : html`<span class="chip">${category}</span>`}<code class="soft small">${record}</code></p>
${images.length === 0 ? null : sprites.isEmpty ? html`<p class="soft small">${counted(images.length, 'picture')}, not embedded here</p>` : html`<div class="pictures">${images.map((sha256, i) => sprites.show(sha256, i + 1, images.length))}</div>`}
${question === '' ? null : html`<p dir="auto">${withSlots(question, images.length)}</p>`}
${optionList(options, reference)}`;
}

/** Marks of pictures as their numbers; those that stand before everything else, in order, say nothing beside the pictures. What marks no picture stays text. */
function withSlots(question: string, pictures: number): Markup {
  const rest = question.replace(/^(?:\s*<image>)+\s*/, (marks) =>
    marks.split('<image>').length - 1 === pictures ? '' : marks,
  );
  const [head = '', ...texts] = (rest === '' ? question : rest).split('<image>');
  return html`${head}${texts.map((text, i) =>
    i < pictures ? html`<span class="slot">picture ${i + 1}</span>${text}` : html`${'<image>'}${text}`,
  )}`;
}

/** With letters where the question is answered by one. */
function optionList(options: readonly string[], reference: string | null): Markup | null {
  if (options.length === 0) return null;
  if (letterIn(reference ?? '') === null)
    return html`<p class="soft small" dir="auto">${options.map((option) => html`<span class="chip">${option}</span>`)}</p>`;
  return html`<ol class="options">${options.map((option) => html`<li dir="auto">${option}</li>`)}</ol>`;
}

function filters(
  id: string,
  shown: readonly (Question & { readonly rule?: string; readonly parsed?: string | null })[],
  isOwn = false,
): Markup {
  const choice = (name: string, label: string, values: readonly (string | null | undefined)[]) => {
    const found = [...new Set(values.filter((value): value is string => Boolean(value)))].sort();
    if (found.length < 2 || found.length > 60) return null;
    return html`<label>${label}<select name="${name}"><option value="">all</option>${found.map((value) => html`<option>${value}</option>`)}</select></label>`;
  };
  return html`<form class="filters" data-for="${id}">${choice(
    'category',
    'Category',
    shown.map(({ category }) => category),
  )}${choice(
    'rule',
    isOwn ? 'Verdict' : 'Rule that read it',
    shown.map(({ rule }) => rule),
  )}${choice(
    'given',
    'Read as',
    shown.map(({ parsed }) => parsed),
  )}<label>Words<input type="search" name="words" autocomplete="off"></label><output class="soft small" aria-live="polite"></output></form>`;
}
