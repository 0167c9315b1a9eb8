import { colorList, conjunctions, nounPhrase, type ObjectTest, quantityAt } from './parse-words.ts';
import { colorCount, touchesAnyWall, touchesCorner, touchesWall, touching, type Wall } from './phrases.ts';
import type { Box, Color, SceneObject } from './scene.ts';

export type BoxHolds = (box: Box) => boolean;

const walls: Readonly<Record<string, Wall>> = {
  left: 'left',
  right: 'right',
  top: 'top',
  upper: 'top',
  roof: 'top',
  bottom: 'bottom',
  lower: 'bottom',
  base: 'bottom',
};

/** A place at the walls: `touching the edge`, `closely touching right wall of a box`, `not touching any edge`, `in the corner`. */
export function wallPlace(text: string): ObjectTest | undefined {
  const match =
    /^(not |no )?(?:closely |nearly |directly |near )*(?:touching|touch|attached to|attach to|in|on|at|near)(?: to)? (?:the |an |any |a )?(.*?)(?: of (?:the|a|any|its) (?:box|square|wall))?(?: with its side)?$/.exec(
      text,
    );
  // `on top` is said of the highest object of a box, wherever it is.
  if (!match || /^on (the )?top$/.test(text)) return undefined;
  const [, not, place = ''] = match;
  const test = placeTest(place);
  return test && not !== undefined ? (o) => !test(o) : test;
}

function placeTest(place: string): ObjectTest | undefined {
  if (/^(edge|wall|walls|side|sides)$/.test(place)) return touchesAnyWall;
  if (place === 'corner') return touchesCorner;
  const [, first = '', second, noun] =
    /^(left|right|top|upper|roof|bottom|lower|base)(?: (left|right|base|side|bottom))?(?: ?\b(edge|wall|side|corner))?$/.exec(
      place,
    ) ?? [];
  const one = walls[first];
  if (one === undefined) return undefined;
  const other = second === 'left' || second === 'right' ? walls[second] : undefined;
  if (noun === 'corner')
    return (o) => touchesCorner(o) && touchesWall(o, one) && (other === undefined || touchesWall(o, other));
  return other === undefined ? (o) => touchesWall(o, one) : undefined;
}

/** A noun phrase with what follows it: `small black square not touching the wall`, `item that is not black`. */
export function described(text: string): ObjectTest | undefined {
  const plain = nounPhrase(text.replace(/ in (it|color)$/, '').replace(/^the /, ''));
  if (plain) return plain;
  const of = /^(.*) of (?:(small|medium|big|large) size|(black|blue|yellow)(?: color)?)( .*)?$/.exec(text);
  if (of) {
    const [, noun = '', size, color, tail = ''] = of;
    return described(`${size ?? color ?? ''} ${noun}${tail}`);
  }
  const that = /^(.*?) (?:that|which|who|and it|and they) (?:is|are) (not )?(?:both )?(?:an? )?(.*)$/.exec(text);
  if (that) {
    const [, noun = '', not, rest = ''] = that;
    const first = described(noun);
    const second = rest.startsWith('touching') ? wallPlace(rest) : described(rest);
    if (!first || !second) return undefined;
    return (o) => first(o) && second(o) === (not === undefined);
  }
  const place =
    /^(.*?) ((?:not |no )?(?:(?:closely|nearly|directly) )*(?:touching|touch|attached to|in|near|on) .*)$/.exec(text);
  if (!place) return undefined;
  const [, noun = '', where = ''] = place;
  const [first, second] = [described(noun), wallPlace(where)];
  return first && second && ((o) => first(o) && second(o));
}

const touchesOne = (box: Box, o: SceneObject, test: ObjectTest): boolean =>
  box.objects.some((p) => p !== o && test(p) && touching(o, p));
const isTop = (box: Box, o: SceneObject): boolean => box.objects.every((p) => p.y >= o.y);
/** `upper` stands on or closely above `lower`: over it, at most a few pixels of air between. */
const isOn = (upper: SceneObject, lower: SceneObject): boolean =>
  upper.y < lower.y && upper.x < lower.x + lower.size && lower.x < upper.x + upper.size;

/** What may follow a counted noun and needs the rest of the box: which of the objects are meant. */
function groupTail(tail: string): ((box: Box, o: SceneObject) => boolean) | undefined {
  if (/^(right |directly )?on (the )?top$/.test(tail)) return isTop;
  const touch = /^(not )?(?:closely |nearly |directly )*touching (?:an?|the|another|each) (.*)$/.exec(tail);
  if (touch) {
    const [, not, rest = ''] = touch;
    const test = rest === 'other' ? () => true : described(rest);
    return test && ((box, o) => touchesOne(box, o, test) === (not === undefined));
  }
  const on = /^(?:right |directly )?(on top of|on|above|over|below|beneath|under) (?:an?|the|another) (.*)$/.exec(tail);
  if (on) {
    const [, word = '', rest = ''] = on;
    const test = described(rest);
    const under = /below|beneath|under/.test(word);
    return test && ((box, o) => box.objects.some((p) => p !== o && test(p) && (under ? isOn(p, o) : isOn(o, p))));
  }
  return undefined;
}

/** A condition on one scatter box, as it follows `a box with`; undefined where it cannot be read. */
export function scatterCondition(text: string): BoxHolds | undefined {
  return single(text) ?? joined(text);
}

function joined(text: string): BoxHolds | undefined {
  for (const [left, right] of conjunctions(text)) {
    const [first, second] = [single(left), scatterCondition(right.replace(/^and /, ''))];
    if (first && second) return (box) => first(box) && second(box);
  }
  return undefined;
}

function single(given: string): BoxHolds | undefined {
  const text = given.replace(/^(there (is|are)|has|have|contains?|containing) /, '').replace(/ each$/, '');
  return onlyThese(text) ?? manyColored(text) ?? shared(text) ?? theItems(text) ?? counted(text) ?? undefined;
}

/** `only black and yellow items`, `only circles`, `items of only blue and black color`, `only circle and square`. */
function onlyThese(text: string): BoxHolds | undefined {
  const match = /^(?:(\d) )?(?:items (?:of|with) )?(?:only )(?!\d)(.*?)(?: color)?( items?)?(?: in it)?$/.exec(text);
  if (!match) return ofTheseColors(text);
  const [, total, list = ''] = match;
  if (/^(at|an?|single) /.test(list)) return undefined;
  return onlyKinds(list, total);
}

function ofTheseColors(text: string): BoxHolds | undefined {
  const match = /^(only )?(\d) items? (?:of|with) (?:only )?((?:black|blue|yellow).*?)(?: color)?$/.exec(text);
  if (match) return onlyKinds(match[3] ?? '', match[2]);
  const short = /^(?:(only) )?(\d) ((?:black|blue|yellow) and (?:black|blue|yellow)) items?$/.exec(text);
  return short ? onlyKinds(short[3] ?? '', short[2]) : undefined;
}

function onlyKinds(list: string, total: string | undefined): BoxHolds | undefined {
  const tests = list.split(/ and | , /).map((part) => nounPhrase(part));
  if (!tests.every((test) => test !== undefined)) return undefined;
  return ({ objects }) =>
    objects.length > 0 &&
    (total === undefined || objects.length === Number(total)) &&
    objects.every((o) => tests.some((test) => test(o))) &&
    tests.every((test) => objects.some(test));
}

/** `items of 2 different color`, `3 items of all 3 different color`, `exactly 2 items of the same color`. */
function manyColored(text: string): BoxHolds | undefined {
  const match =
    /^(.*?)items? (?:of|with) (?:only )?(at most |at least )?(?:all )?(?:the )?(?:(\d) )?(different|same)?(?: kinds of)? ?(color|shape|size)( at most)?$/.exec(
      text,
    );
  if (match) {
    const [, lead = '', bound, n, which, what, atMost] = match;
    if (n === undefined && which === undefined) return undefined;
    const quantity = lead === '' ? undefined : quantityAt(`${lead}items`);
    if (lead !== '' && quantity === undefined) return coloredSome(lead, which, what);
    const kinds = (box: Box): number =>
      what === 'color' ? colorCount(box) : new Set(box.objects.map((o) => (what === 'shape' ? o.shape : o.size))).size;
    const wanted = n === undefined ? (which === 'same' ? 1 : undefined) : Number(n);
    return (box) => {
      const found = kinds(box);
      const fits =
        wanted === undefined
          ? found === box.objects.length || (found > 1 && box.objects.length > 3)
          : bound === 'at most ' || atMost !== undefined
            ? found <= wanted
            : bound === 'at least '
              ? found >= wanted
              : found === wanted;
      return fits && (quantity === undefined || quantity.test(box.objects.length));
    };
  }
  const kinds = /^(?:it )?(\d) (?:different )?(?:kinds of )?color$/.exec(text);
  return kinds ? (box) => colorCount(box) === Number(kinds[1]) : undefined;
}

/** `2 blue items of the same shape`. */
function coloredSome(lead: string, which: string | undefined, what: string | undefined): BoxHolds | undefined {
  const quantity = quantityAt(`${lead}items`);
  const test = quantity && nounPhrase(quantity.rest);
  if (!quantity || !test || which !== 'same') return undefined;
  return ({ objects }) => {
    const meant = objects.filter(test);
    const values = new Set(meant.map((o) => (what === 'color' ? o.color : what === 'shape' ? o.shape : o.size)));
    return quantity.test(meant.length) && values.size === 1;
  };
}

/** `4 items of which 2 are blue`, `exactly 3 items 1 of which is a circle`, `6 items including yellow circles`. */
function shared(text: string): BoxHolds | undefined {
  const match =
    /^(.*?items?)(?: (?:and )?(?:of which|where|and) | )(?:(?:there are|the) )?(.+?)(?: of which)? (?:is|are|being) (?:both )?(?:an? )?(.+)$/.exec(
      text,
    ) ?? /^(.*?items?) including (a) ?()(.*)$/.exec(text.replace(/including (?!a )/, 'including a '));
  if (!match) return undefined;
  const [, lead = '', part = '', third = '', including] = match;
  const whole = /^(only|exactly|at least|at most|more than|less than|\d|an?|items?|many|multiple)/.test(lead)
    ? scatterGroup(lead)
    : undefined;
  const quantity = quantityAt(part.replace(/ items?$/, '').replace(/^the (\d)$/, '$1'));
  const test = described((including ?? third).replace(/ in$/, ''));
  if (!whole || !quantity || quantity.rest !== '' || !test) return undefined;
  return (box) => whole(box) && quantity.test(box.objects.filter(test).length);
}

const scatterGroup = (text: string): BoxHolds | undefined =>
  text === 'items' ? () => true : (manyColored(text) ?? onlyThese(text) ?? counted(text));

/** `1 item that is black`, `2 items and they are both circles` and the like, told with `it` and `they`. */
function theItems(text: string): BoxHolds | undefined {
  const match = /^(.*?) (?:and|with|that|which) (?:it|they)? ?(?:is|are) (not )?(?:both )?(?:an? )?(.*)$/.exec(text);
  if (!match) return undefined;
  const [, lead = '', not, rest = ''] = match;
  const quantity = quantityAt(lead);
  const noun = quantity && described(quantity.rest);
  const test = /^(closely |nearly )?touching/.test(rest) ? wallPlace(rest) : described(rest);
  if (!quantity || !noun || !test) return undefined;
  const total = /^only /.test(lead) && /items?$/.test(lead);
  return ({ objects }) =>
    total
      ? quantity.test(objects.length) && objects.every((o) => test(o) === (not === undefined))
      : quantity.test(objects.filter((o) => noun(o) && test(o) === (not === undefined)).length);
}

/** `exactly 2 blue circles touching the edge`, `a black item on top`. */
function counted(text: string): BoxHolds | undefined {
  const quantity = quantityAt(text);
  if (quantity === undefined) {
    // `a box with yellow triangles`
    const some =
      text.endsWith('s') || /^(black|blue|yellow) (circle|square|triangle)$/.test(text) ? described(text) : undefined;
    return some && ((box) => box.objects.some(some));
  }
  const { rest, test } = quantity;
  if (rest === '') return undefined;
  const plain = described(rest);
  if (plain) return ({ objects }) => test(objects.filter(plain).length);
  for (const match of rest.matchAll(
    / (?=(?:not |right |directly |closely |nearly )*(?:touching|on|above|over|below|beneath|under) )/g,
  )) {
    const noun = described(rest.slice(0, match.index));
    const tail = groupTail(rest.slice(match.index + 1));
    if (noun && tail) return (box) => test(box.objects.filter((o) => noun(o) && tail(box, o)).length);
  }
  return undefined;
}

/** Colors of a list as a test. */
export const oneOf =
  (list: readonly Color[]): ObjectTest =>
  (o) =>
    list.includes(o.color);
export { colorList };
