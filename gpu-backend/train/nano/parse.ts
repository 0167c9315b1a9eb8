import { described, scatterCondition, wallPlace } from './parse-scatter.ts';
import { colorAt, towerCondition } from './parse-tower.ts';
import { colorList, normalized, nounPhrase, quantityAt } from './parse-words.ts';
import { type Claim, colorCount, countIn, touching } from './phrases.ts';
import type { Box, SceneObject } from './scene.ts';

type Holds = (boxes: readonly Box[]) => boolean;
type Kind = Box['kind'];

/**
 * Reads a sentence that a person wrote about a set of boxes: spelling mended, then by rules to a claim whose truth can be computed
 * for any set. The other way round than grammar.ts, which makes sentences from claims.
 * @returns undefined where the sentence cannot be read
 */
export function parseStatement(statement: string, kind: Kind): Claim | undefined {
  const text = normalized(statement);
  // Towers are told as boxes with items, too.
  const holds = (kind === 'tower' ? towers(text) : undefined) ?? scatters(text);
  return holds && { text: statement, key: `read:${text}`, holds };
}

const all =
  (test: (box: Box) => boolean): Holds =>
  (boxes) =>
    boxes.every(test);

/** `a box with …`, `exactly 2 towers …`, `1 of the boxes has …`: how many boxes satisfy the condition. */
function boxes(
  text: string,
  noun: string,
  condition: (text: string) => ((box: Box) => boolean) | undefined,
): Holds | undefined {
  const every = new RegExp(
    `^(?:each|every|all|all of)(?: of)?(?: the)? ${noun}(?:s|es)? (?:has|have|contains?|is|are) (.*)$`,
  ).exec(text);
  if (every) {
    const test = condition(every[1] ?? '');
    return test && all(test);
  }
  const of = new RegExp(
    `^(?:there (?:is|are) )?(.*?) of the (3 )?${noun}(?:s|es)? (?:has|have|contains?|with|is|are) (.*)$`,
  ).exec(text);
  if (of) {
    const [, words = '', three, rest = ''] = of;
    const quantity = quantityAt(words);
    const test = condition(rest);
    if (quantity?.rest !== '' || !test) return undefined;
    const n = Number(/\d/.exec(words)?.[0] ?? 1);
    return noun === 'box' && /^\d$/.test(words) && three === undefined
      ? (set) => set.filter(test).length >= n
      : (set) => quantity.test(set.filter(test).length);
  }
  const lead = /^(?:there (?:is|are) )(.*)$/.exec(text)?.[1] ?? text;
  const quantity = quantityAt(lead) ?? quantityAt(`a ${lead}`);
  if (quantity === undefined) return undefined;
  const match = new RegExp(
    `^${noun}(?:s|es)?(?: ,)? ?(?:with|that|which|who|where|containing|contains?|has|have|of|in)? ?(.*)$`,
  ).exec(quantity.rest);
  if (!match) return undefined;
  const rest = (match[1] ?? '').replace(/^(only )?(has|have|contains?|with|is|are) /, '$1');
  const test = condition(rest);
  return test && ((set) => quantity.test(set.filter(test).length));
}

function scatters(text: string): Holds | undefined {
  return boxes(text, 'box', scatterCondition) ?? alike(text) ?? inEach(text) ?? extreme(text) ?? scattered(text);
}

/** `2 boxes that has the same number of items`. */
function alike(text: string): Holds | undefined {
  const match =
    /^there are (.*?) boxes (?:that has|that have|which has|which have|with) the same number of ([a-z ]+?)(?: and (\d) kinds of color)?$/.exec(
      text,
    );
  if (!match) return undefined;
  const [, words = '', noun = '', kinds] = match;
  const [quantity, test] = [quantityAt(words), nounPhrase(noun)];
  if (!quantity || !test) return undefined;
  return (set) => {
    const counts = set
      .filter((box) => kinds === undefined || colorCount(box) === Number(kinds))
      .map((box) => countIn([box], test));
    const most = Math.max(0, ...counts.map((count) => counts.filter((other) => other === count).length));
    return /^\d$/.test(words) ? most >= Number(words) : quantity.test(most);
  };
}

/** `there is at least 1 blue item in each box`, `exactly 2 items in 1 box`. */
function inEach(text: string): Holds | undefined {
  const match =
    /^there (?:is|are) (.*) in (each|every|all the|\d|a) (?:box|boxes|tower|towers)(?: of which (.*))?$/.exec(text);
  if (!match) return undefined;
  const [, words = '', where = '', tail] = match;
  const test =
    scatterCondition(tail === undefined ? words : `${words} of which ${tail}`) ??
    (tail === undefined ? towerCondition(words) : undefined);
  if (!test) return undefined;
  const n = Number(where);
  return Number.isNaN(n)
    ? where === 'a'
      ? (set) => set.some(test)
      : all(test)
    : (set) => set.filter(test).length === n;
}

/** `the box with least number of items contains …`. */
function extreme(text: string): Holds | undefined {
  const match = /^the box with (?:the )?(least|most|fewest)(?: number of)? items? (?:contains|has) (.*)$/.exec(text);
  const test = match && scatterCondition(match[2] ?? '');
  if (!match || !test) return undefined;
  return (set) => {
    const counts = set.map((box) => box.objects.length);
    const wanted = match[1] === 'most' ? Math.max(...counts) : Math.min(...counts);
    return set.some((box) => box.objects.length === wanted && test(box));
  };
}

/** Objects counted over all boxes: `there are exactly 2 blue circles touching the edge`, `the black circle is not touching the wall`. */
function scattered(text: string): Holds | undefined {
  const none = /^none of the (.*?) (?:is|are) ((?:closely |nearly )*touching .*)$/.exec(text);
  if (none) {
    const [noun, place] = [described(none[1] ?? ''), wallPlace(none[2] ?? '')];
    return noun && place && ((set) => countIn(set, (o) => noun(o) && place(o)) === 0);
  }
  const the = /^(?:the )?(.*?) (?:is|are) ((?:not )?(?:closely |nearly |directly )*(?:touching|in|on) .*)$/.exec(text);
  if (the && !text.startsWith('there')) {
    const [, words = '', where = ''] = the;
    if (where === 'on top') return scatterCountOver(`a ${words} on top`);
    const quantity = quantityAt(words);
    const [noun, place] = [described(quantity?.rest ?? words), wallPlace(where)];
    if (!noun || !place) return undefined;
    return (set) => (quantity?.test ?? ((n: number) => n > 0))(countIn(set, (o) => noun(o) && place(o)));
  }
  const lead = /^there (?:is|are) (.*)$/.exec(text)?.[1] ?? text;
  return scatterCountOver(lead);
}

function scatterCountOver(text: string): Holds | undefined {
  const quantity = quantityAt(text) ?? quantityAt(`a ${text}`);
  if (quantity === undefined) return undefined;
  const { rest, test } = quantity;
  const plain = described(rest);
  if (plain) return (set) => test(countIn(set, plain));
  const pair = /^(.*?) (?:closely |nearly |directly )*(?:touching|near) (?:an? |the |each )(.*)$/.exec(rest);
  if (pair) {
    const [first, second] = [described(pair[1] ?? ''), pair[2] === 'other' ? () => true : described(pair[2] ?? '')];
    const gap = / near /.test(rest) ? 8 : 2;
    if (first && second)
      return (set) =>
        test(
          set.reduce(
            (sum, { objects }) =>
              sum +
              objects.filter((o) => first(o) && objects.some((p) => p !== o && second(p) && touching(o, p, gap)))
                .length,
            0,
          ),
        );
  }
  for (const match of text.matchAll(/ and /g)) {
    const [left, right] = [scatterCountOver(text.slice(0, match.index)), scatterCountOver(text.slice(match.index + 5))];
    if (left && right) return (set) => left(set) && right(set);
  }
  const some = scatterCondition(text);
  return some && ((set) => set.some(some));
}

const levelWords = 'base|bottom|top|second|third';

function towers(text: string): Holds | undefined {
  return (
    blockOfTower(text) ??
    plainTower(text) ??
    sameTowers(text) ??
    boxes(text, 'tower', towerCondition) ??
    theTower(text) ??
    inEach(text) ??
    blocks(text)
  );
}

/** `there is a black block as the base of a tower with at least 2 blocks`. */
function blockOfTower(text: string): Holds | undefined {
  const match = new RegExp(
    `^there (?:is|are) (.*?) (?:as|at) the (${levelWords}) of (?:(an?|at least \\d|exactly \\d|only \\d|\\d|the) )?towers?(?: (?:with|that has|which has) (.*))?$`,
  ).exec(text);
  if (!match) return undefined;
  const [, words = '', level = '', count = 'a', rest] = match;
  const quantity = quantityAt(words);
  const color = /^(black|blue|yellow)?(?: ?blocks?)$/.exec(quantity?.rest ?? '')?.[1];
  const height = rest === undefined ? () => true : towerCondition(rest);
  const many = count === 'a' || count === 'the' ? undefined : quantityAt(count);
  if (!quantity || color === undefined || !height) return undefined;
  const test = many && quantity.isArticle ? many.test : quantity.test;
  return (set) => test(set.filter((box) => colorAt(box, level) === color && height(box)).length);
}

/** `there is a blue tower with only 1 block`, `there is a 3 blocks tower`, `2 of the 3 towers is black`. */
function plainTower(text: string): Holds | undefined {
  const match =
    /^there (?:is|are) (.*?) ?(?:(black|blue|yellow)|(\d) blocks?) towers?(?: (?:with|that has|which has|and|that) (.*))?$/.exec(
      text,
    );
  if (match) {
    const [, words = '', color, blocksCount, rest] = match;
    const quantity = quantityAt(words);
    const more = rest === undefined ? () => true : towerCondition(rest);
    if (quantity?.rest !== '' || !more) return undefined;
    return (set) =>
      quantity.test(
        set.filter(
          (box) =>
            (color === undefined || box.objects.every((o) => o.color === color)) &&
            (blocksCount === undefined || box.objects.length === Number(blocksCount)) &&
            more(box),
        ).length,
      );
  }
  const of = /^(\d) of the (?:3 )?towers (?:is|are) (black|blue|yellow)$/.exec(text);
  return of
    ? (set) => set.filter((box) => box.objects.every((o) => o.color === of[2])).length === Number(of[1])
    : undefined;
}

/** `there are only 2 towers that has the same base color`, `2 of the 3 towers has the same base color that is not black`. */
function sameTowers(text: string): Holds | undefined {
  const match =
    /^(?:there are )?(.*?) (?:of the 3 )?towers (?:that has|that have|with|has|have|which has|which have) (?:the |blocks? of (?:the )?)?same (?:(base|bottom|top) color|color at (?:the )?(base|bottom|top)|(height|number of blocks)|(color))(?: that is not (black|blue|yellow))?$/.exec(
      text,
    );
  if (!match) return undefined;
  const [, words = '', first, second, height, color, not] = match;
  const quantity = quantityAt(words);
  if (quantity?.rest !== '') return undefined;
  const value = (box: Box): unknown =>
    height !== undefined
      ? box.objects.length
      : color !== undefined
        ? colorCount(box) === 1
          ? box.objects[0]?.color
          : box
        : colorAt(box, first ?? second ?? 'base');
  return (set) => {
    const values = set.map(value).filter((v) => v !== not);
    const most = Math.max(0, ...values.map((v) => values.filter((other) => other === v).length));
    return /^\d$/.test(words) ? most >= Number(words) : quantity.test(most);
  };
}

/** `the tower with 3 blocks has a blue block at the top`, `the second block from the base of a tower is black`, `the base of a 2 blocks tower is black`. */
function theTower(text: string): Holds | undefined {
  const match = /^(?:the|1 of the|a) towers? with (.*?blocks?) (?:has|have|contains?) (.*)$/.exec(text);
  if (match) {
    const [first, second] = [towerCondition(match[1] ?? ''), towerCondition(match[2] ?? '')];
    return first && second && ((set) => set.some((box) => first(box) && second(box)));
  }
  const level =
    /^the (base|bottom|top|second|third)(?: block)?(?: from the base)? of a (?:(\d) blocks )?tower(?: from the base)? is (black|blue|yellow)$/.exec(
      text,
    );
  if (level) {
    const [, where = '', n, color] = level;
    return (set) =>
      set.some((box) => colorAt(box, where) === color && (n === undefined || box.objects.length === Number(n)));
  }
  const bases = /^the (base|top)s? of the (?:3 )?towers (?:is|are) (.*?)(?: only)?(?: blocks?)?$/.exec(text);
  if (!bases) return undefined;
  const [, where = '', list = ''] = bases;
  const plain = colorList(list);
  if (plain)
    return (set) => {
      const found = set.map((box) => colorAt(box, where));
      return found.every((c) => plain.some((p) => p === c)) && plain.every((p) => found.includes(p));
    };
  const parts = list.split(' and ').map((part) => /^(\d) (black|blue|yellow)(?: blocks?)?$/.exec(part));
  if (!parts.every((part) => part !== null)) return undefined;
  return (set) =>
    parts.every((part) => set.filter((box) => colorAt(box, where) === part[2]).length === Number(part[1]));
}

/** Blocks counted over all towers: `there are 3 blue blocks`, `there is exactly 1 black block on a blue block`. */
function blocks(text: string): Holds | undefined {
  const lead = /^there (?:is|are) (.*)$/.exec(text)?.[1] ?? text;
  const quantity = quantityAt(lead) ?? quantityAt(`a ${lead}`);
  if (quantity === undefined) return undefined;
  const plain = nounPhrase(quantity.rest);
  if (plain) return (set) => quantity.test(countIn(set, plain));
  if (/\b(together|each other)$/.test(lead)) {
    const run = towerCondition(lead);
    return run && ((set) => set.some(run));
  }
  // What stands where is a condition on one tower; counted over all of them block by block.
  const number = /^(?:(exactly|only|at least|at most|more than|less than) )?(\d|an?|no)\b/.exec(lead)?.[0];
  const tail =
    number === undefined
      ? undefined
      : lead
          .slice(number.length)
          .trim()
          .replace(/^(black|blue|yellow) blocks/, '$1 block');
  if (tail === undefined) return undefined;
  const some = towerCondition(`a ${tail}`);
  if (!some) return undefined;
  const exact = Array.from({ length: 5 }, (_, n) => towerCondition(`exactly ${n} ${tail}`));
  const countIt = (box: Box): number =>
    Math.max(
      0,
      exact.findIndex((test) => test?.(box) === true),
    );
  return (set) => quantity.test(set.reduce((sum, box) => sum + countIt(box), 0));
}

/** For tests and statistics. */
export type { Claim, SceneObject };
