import type { BoxHolds } from './parse-scatter.ts';
import { colorList, conjunctions, nounPhrase, quantityAt } from './parse-words.ts';
import { colorCount } from './phrases.ts';
import { type Box, type Color, colors, type SceneObject } from './scene.ts';

const colorOf = (word: string | undefined): Color | undefined => colors.find((color) => color === word);

/** Index of a level from the base up; -1 where this tower has none. `at base`, `the second`, `in the middle`. */
function levelOf(word: string): ((height: number) => number) | undefined {
  switch (word) {
    case 'base':
    case 'bottom':
    case 'first':
      return () => 0;
    case 'top':
    case 'roof':
    case 'last':
      return (height) => height - 1;
    case 'second':
      return (height) => (height > 1 ? 1 : -1);
    case 'third':
      return (height) => (height > 2 ? 2 : -1);
    case 'fourth':
      return (height) => (height > 3 ? 3 : -1);
    case 'middle':
      return (height) => (height === 3 ? 1 : -1);
    default:
      return undefined;
  }
}

export const colorAt = ({ objects }: Box, level: string): Color | undefined =>
  objects[levelOf(level)?.(objects.length) ?? -1]?.color;

const longestRun = (box: Box, test: (o: SceneObject) => boolean): number => {
  let [run, longest] = [0, 0];
  for (const o of box.objects) {
    run = test(o) ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  return longest;
};

const levels = 'base|bottom|top|roof|second|third|fourth|first|last|middle';
const atLevel = new RegExp(
  `^(?:(?:which|that) (?:is|are) )?(?:at|on|as|in|is|being|forms?)(?: the| a| its)? (${levels})(?: (?:level|block|position|base))?(?: (?:from|of) (?:the|a) (?:base|bottom|tower|box))*$`,
);
const over =
  /^(?:that is |which is )?(?:directly |right )?(above|over|on top of|on the top of|on|below|under|beneath) (?:an?|the|1)? ?(.*)$/;

/** Whether block `i` stands as `word` says to a neighbour that satisfies `test`. */
function stands(box: Box, i: number, word: string, test: (o: SceneObject, j: number) => boolean): boolean {
  const j = /below|under|beneath/.test(word) ? i + 1 : i - 1;
  const other = box.objects[j];
  return other !== undefined && test(other, j);
}

/** A neighbour as people name it: `yellow block`, `top block`, `base`. */
function neighbour(text: string, box: Box): ((o: SceneObject, j: number) => boolean) | undefined {
  const level = new RegExp(`^(${levels})(?: block)?$`).exec(text)?.[1];
  if (level !== undefined) return (_, j) => j === levelOf(level)?.(box.objects.length);
  const noun = nounPhrase(text);
  return noun && ((o) => noun(o));
}

/** A condition on one tower, as it follows `a tower with`; undefined where it cannot be read. */
export function towerCondition(text: string): BoxHolds | undefined {
  return single(text) ?? joined(text);
}

function joined(text: string): BoxHolds | undefined {
  for (const [left, right] of conjunctions(text)) {
    const [first, second] = [single(left), towerCondition(right.replace(/^and /, ''))];
    if (first && second) return (box) => first(box) && second(box);
  }
  return undefined;
}

function single(given: string): BoxHolds | undefined {
  const text = given
    .replace(/^(there (is|are)|has|have|contains?|containing|not containing) /, '')
    .replace(/ (each|only)$/, '')
    .replace(/^has /, '');
  return negated(text) ?? level(text) ?? onlyThese(text) ?? colored(text) ?? counted(text);
}

function negated(text: string): BoxHolds | undefined {
  const rest = /^(?:not (?:with|have|has)|not|does not have|without) (an? .*)$/.exec(text)?.[1];
  const test = rest === undefined ? undefined : single(rest);
  return test && ((box) => !test(box));
}

/** `a black base`, `blue top`, `the base is black`, `the top block is yellow`, `the second block from the base is black`. */
function level(text: string): BoxHolds | undefined {
  const match = new RegExp(
    `^(?:an? |the |only )?(black|blue|yellow)(?: color)? (?:as |at |in )?(?:the )?(${levels})(?: color)?(?: block)?$`,
  ).exec(text);
  const said = new RegExp(
    `^(?:that |and )?(?:the |its )?(${levels})(?: block)?(?: from the (?:base|bottom))?(?: of (?:the|a) tower)?(?: from the (?:base|bottom))? (?:is|are) (not )?(black|blue|yellow)$`,
  ).exec(text);
  const [where, color, not] = match
    ? [match[2], colorOf(match[1]), undefined]
    : [said?.[1], colorOf(said?.[3]), said?.[2]];
  if (where === undefined || color === undefined) return undefined;
  return (box) => {
    const found = colorAt(box, where);
    return found !== undefined && (found === color) === (not === undefined);
  };
}

/** `only black and blue blocks`, `only black blocks`, `black and blue blocks only`, `the color is black`. */
function onlyThese(text: string): BoxHolds | undefined {
  const match =
    /^only ((?:black|blue|yellow)[a-z ,]*?)(?: color)?(?: blocks?| items?)?$/.exec(text) ??
    /^(?:and )?the color (?:is|are) ((?:black|blue|yellow)[a-z ,]*?)(?: only)?$/.exec(text);
  const list = match && colorList(match[1] ?? '');
  if (!list) return undefined;
  return ({ objects }) =>
    objects.every((o) => list.includes(o.color)) && list.every((color) => objects.some((o) => o.color === color));
}

/** `blocks of 3 different color`, `only 1 color`, `a single color`, `2 blocks of the same color`. */
function colored(text: string): BoxHolds | undefined {
  const alone = /^(?:only )?(?:(\d)|(?:a )?(single|same)|the same)(?: different)? color$/.exec(text);
  if (alone) return (box) => colorCount(box) === Number(alone[1] ?? 1);
  const match =
    /^(.*?)blocks?(?: stacked together)? (?:of|with|are|which are|which is) (?:only |all |the |exactly )*(?:(\d) )?(different |same )?(?:kinds of )?color(?: at (base|top))?$/.exec(
      text,
    );
  if (!match) return undefined;
  const [, lead = '', n, which, where] = match;
  const quantity = lead === '' ? undefined : quantityAt(`${lead}blocks`);
  if ((lead !== '' && !quantity) || where !== undefined || (n === undefined && which === undefined)) return undefined;
  return (box) => {
    const found = colorCount(box);
    const fits = n !== undefined ? found === Number(n) : which === 'same ' ? found === 1 : found === box.objects.length;
    return fits && (quantity === undefined || quantity.test(box.objects.length));
  };
}

/** `2 blue blocks`, `a black block over a yellow block`, `exactly 3 blocks of which 2 are black`, `2 black blocks stacked together`. */
function counted(text: string): BoxHolds | undefined {
  const which = /^(.*?blocks?) of which (.*?) (?:is|are) (.*)$/.exec(text);
  if (which) {
    const [, whole = '', part = '', what = ''] = which;
    const [first, second] = [counted(whole), counted(`${part} ${what.replace(/^an? /, '')}`)];
    return first && second && ((box) => first(box) && second(box));
  }
  const quantity =
    quantityAt(text) ??
    (/^(black|blue|yellow|blocks?)\b/.test(text) ? { test: (c: number) => c >= 1, rest: text } : undefined);
  if (quantity === undefined) return undefined;
  const match = /^((?:black|blue|yellow)? ?(?:color )?(?:blocks?|items?)?)(?: in it)?(?: (.*))?$/.exec(quantity.rest);
  const [, words = '', tail] = match ?? [];
  const noun = nounPhrase(words.trim());
  if (!match || !noun) return undefined;
  const { test } = quantity;
  if (tail === undefined) return ({ objects }) => test(objects.filter(noun).length);
  const kept = blocksThat(tail);
  if (kept) return (box) => test(box.objects.filter((o, i) => noun(o) && kept(box, i)).length);
  const run =
    /^(at least |only )?(stacked together|stacked|attached (?:with|to) each other|on top of each other|together)(?: of the same color)?$/.exec(
      tail,
    );
  if (!run) return undefined;
  if (tail.endsWith('of the same color'))
    return (box) => colors.some((color) => test(longestRun(box, (o) => o.color === color)));
  return (box) =>
    test(longestRun(box, noun)) ||
    (noun !== undefined &&
      test(box.objects.filter(noun).length) &&
      longestRun(box, noun) === box.objects.filter(noun).length);
}

/** What follows a block and says where it stands. */
function blocksThat(tail: string): ((box: Box, i: number) => boolean) | undefined {
  const where = atLevel.exec(tail)?.[1];
  if (where !== undefined) return (box, i) => levelOf(where)?.(box.objects.length) === i;
  const second = /^(?:which|that) (?:is|are) (not )?(?:of )?(black|blue|yellow)(?: color)?$/.exec(tail);
  if (second) return (box, i) => (box.objects[i]?.color === second[2]) === (second[1] === undefined);
  const relation = over.exec(tail);
  if (relation) {
    const [, word = '', rest = ''] = relation;
    if (neighbour(rest, { kind: 'tower', objects: [] }) === undefined) return undefined;
    return (box, i) => stands(box, i, word, neighbour(rest, box) ?? (() => false));
  }
  const between =
    /^(?:that is )?(?:in )?between (?:an? |the )?(?:2 )?(black|blue|yellow)? ?blocks?(?: of (?:the )?same color| that (?:is|are) not (black|blue|yellow))?$/.exec(
      tail,
    );
  if (between) {
    const [, color, without] = between;
    return ({ objects }, i) => {
      const [below, above] = [objects[i - 1]?.color, objects[i + 1]?.color];
      if (below === undefined || above === undefined) return false;
      if (without !== undefined) return below !== without && above !== without;
      return color === undefined ? below === above : below === color && above === color;
    };
  }
  const attached = /^(?:that is )?(?:attached|attach) (?:to|with) (?:an? |the )(.*)$/.exec(tail);
  const noun = attached && nounPhrase(attached[1] ?? '');
  return noun
    ? ({ objects }, i) => [objects[i - 1], objects[i + 1]].some((o) => o !== undefined && noun(o))
    : undefined;
}
