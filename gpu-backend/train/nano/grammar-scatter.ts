import { numberText, withArticle } from './language.ts';
import {
  type BoxTest,
  type Claim,
  colorCount,
  counted,
  countIn,
  type FormWeights,
  type Phrase,
  phraseOf,
  quantityOf,
  randomPhrase,
  randomQuantity,
  randomRelation,
  thereIs,
  touchesAnyWall,
  touching,
} from './phrases.ts';
import type { Rng } from './random.ts';
import { type Box, colors, shapes } from './scene.ts';

const insideForms: FormWeights = {
  a: 5,
  exactly: 3,
  only: 2,
  atLeast: 3,
  bare: 4,
  atMost: 0.3,
  moreThan: 0.3,
  no: 0.5,
};
const overallForms: FormWeights = {
  exactly: 4,
  atLeast: 3,
  bare: 4,
  a: 4,
  no: 1.5,
  only: 1,
  moreThan: 0.5,
  atMost: 0.4,
  lessThan: 0.3,
};
export const boxForms: FormWeights = { a: 6, bare: 3, atLeast: 2, exactly: 2, no: 1, only: 0.7 };

function countTest(rng: Rng, phrase: Phrase = randomPhrase(rng, 'scatter')): BoxTest {
  const quantity = randomQuantity(rng, insideForms, phrase.key === '' ? 6 : 3);
  return {
    text: counted(quantity, phrase.one, phrase.many),
    key: `${quantity.key}${phrase.key}`,
    holds: (box) => quantity.test(countIn([box], phrase.test)),
  };
}

function both(parts: readonly BoxTest[]): BoxTest {
  const texts = parts.map((part) => part.text);
  return {
    text: texts.length === 1 ? (texts[0] ?? '') : `${texts.slice(0, -1).join(', ')} and ${texts.at(-1)}`,
    key: parts.map((part) => part.key).join('&'),
    holds: (box) => parts.every((part) => part.holds(box)),
  };
}

const onlyColors = (rng: Rng): BoxTest => {
  const [first, second] = rng.sample(colors, 2);
  const single = rng.chance(0.25);
  const noun = rng.pick(['items', 'items', 'objects']);
  return {
    text: single
      ? `only ${first} ${noun}`
      : rng.pick([`only ${first} and ${second} ${noun}`, `${noun} of only ${first} and ${second} color`]),
    key: `only${single ? first : [first, second].sort().join('')}`,
    holds: (box) =>
      box.objects.length > 0 &&
      box.objects.every((o) => o.color === first || (!single && o.color === second)) &&
      (single || new Set(box.objects.map((o) => o.color)).size === 2),
  };
};

const onlyShape = (rng: Rng): BoxTest => {
  const shape = rng.pick(shapes);
  return {
    text: `only ${shape}s`,
    key: `only${shape}`,
    holds: (box) => box.objects.length > 0 && box.objects.every((o) => o.shape === shape),
  };
};

const ofColors = (rng: Rng): BoxTest => {
  const n = rng.int(1, 3);
  const number = numberText(rng, n);
  const words =
    n === 3
      ? rng.pick([`items of all ${number} different colors`, `items of ${number} different colors`])
      : n === 1
        ? rng.pick(['items of one color', 'items of the same color'])
        : rng.pick([
            `items of ${number} different colors`,
            `items of only ${number} different colors`,
            `items of ${number} different color`,
          ]);
  const total = rng.chance(0.4) ? rng.int(2, 6) : undefined;
  return {
    text: total === undefined ? words : `${numberText(rng, total)} ${words}`,
    key: `col${n}${total ?? ''}`,
    holds: (box) => colorCount(box) === n && (total === undefined || box.objects.length === total),
  };
};

const share = (rng: Rng): BoxTest => {
  const total = rng.int(2, 6);
  const part = rng.int(1, Math.min(3, total - 1));
  const [phrase, noun] = [randomPhrase(rng, 'scatter', 0), rng.pick(['items', 'objects'])];
  const word = rng.pick([
    `${numberText(rng, total)}`,
    `exactly ${numberText(rng, total)}`,
    `only ${numberText(rng, total)}`,
  ]);
  const verb = part === 1 ? 'is' : 'are';
  const [, color] = /(black|yellow|blue)/.exec(phrase.one) ?? [];
  const what = color !== undefined && rng.chance(0.5) ? color : part === 1 ? withArticle(phrase.one) : phrase.many;
  const test = what === color ? phraseOf(rng, 'scatter', { color: colors.find((c) => c === color) }) : phrase;
  return {
    text: `${word} ${noun} of which ${numberText(rng, part)} ${verb} ${what}`,
    key: `share${total}:${part}${test.key}`,
    holds: (box) => box.objects.length === total && countIn([box], test.test) === part,
  };
};

const atWall = (rng: Rng): BoxTest => {
  const [phrase, relation] = [randomPhrase(rng, 'scatter', 0.2), randomRelation(rng)];
  const quantity = randomQuantity(rng, { a: 6, exactly: 1, atLeast: 1, bare: 1, no: 0.5 }, 2);
  const where = relation.text.replace(' of a box', '');
  return {
    text: counted(quantity, phrase.one, phrase.many, ` ${where}`),
    key: `${quantity.key}${phrase.key}@${relation.key}`,
    holds: (box) => quantity.test(countIn([box], (o) => phrase.test(o) && relation.test(o))),
  };
};

const touchingPair = (rng: Rng): BoxTest => {
  const [a, b] = [randomPhrase(rng, 'scatter'), randomPhrase(rng, 'scatter')];
  const not = rng.chance(0.1);
  const pairs = (box: Box) =>
    box.objects.some(
      (o, i) => a.test(o) && box.objects.some((other, j) => i !== j && b.test(other) && touching(o, other)),
    );
  const words = rng.pick([`touching ${withArticle(b.one)}`, `closely touching ${withArticle(b.one)}`]);
  return {
    text: `${withArticle(a.one)} ${not ? 'not ' : ''}${words}`,
    key: `${not ? 'not' : ''}touch${a.key}:${b.key}`,
    holds: (box) => (not ? box.objects.some(a.test) && box.objects.some(b.test) && !pairs(box) : pairs(box)),
  };
};

const onTop = (rng: Rng): BoxTest => {
  const phrase = randomPhrase(rng, 'scatter', 0);
  const total = rng.chance(0.5) ? rng.int(2, 6) : undefined;
  return {
    text: `${total === undefined ? '' : `${numberText(rng, total)} items and `}${withArticle(phrase.one)} on top`,
    key: `top${phrase.key}${total ?? ''}`,
    holds: ({ objects }) =>
      (total === undefined || objects.length === total) &&
      objects.some((o) => phrase.test(o) && objects.every((p) => p.y >= o.y)),
  };
};

/** A condition on one scatter box, for use after `box with`. */
export function scatterTest(rng: Rng): BoxTest {
  const form = rng.weighted({
    count: 5,
    items: 3,
    two: 5,
    three: 1.5,
    only: 1.5,
    shape: 0.4,
    colors: 1.5,
    share: 1.2,
    wall: 2,
    touch: 0.7,
    top: 0.5,
  });
  switch (form) {
    case 'count':
      return countTest(rng);
    case 'items':
      return countTest(rng, phraseOf(rng, 'scatter', {}));
    case 'two':
      return both([countTest(rng), rng.chance(0.8) ? countTest(rng) : atWall(rng)]);
    case 'three':
      return both([countTest(rng), countTest(rng), countTest(rng)]);
    case 'only':
      return onlyColors(rng);
    case 'shape':
      return onlyShape(rng);
    case 'colors':
      return ofColors(rng);
    case 'share':
      return share(rng);
    case 'wall':
      return atWall(rng);
    case 'touch':
      return touchingPair(rng);
    case 'top':
      return onTop(rng);
  }
}

/** `there are exactly two blue circles touching the edge`: objects counted over the whole set. */
export function scatterCount(rng: Rng): Claim {
  const phrase = randomPhrase(rng, 'scatter');
  const relation = rng.chance(0.68) ? randomRelation(rng) : undefined;
  const quantity = randomQuantity(rng, overallForms, relation ? 5 : 7);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, phrase.one, phrase.many, relation ? ` ${relation.text}` : '')}`,
    key: `all:${quantity.key}${phrase.key}@${relation?.key ?? ''}`,
    holds: (boxes) => quantity.test(countIn(boxes, (o) => phrase.test(o) && (relation?.test(o) ?? true))),
  };
}

/** `none of the yellow items are touching the edge`, `the small black square is not touching the wall`. */
export function scatterNone(rng: Rng): Claim {
  const phrase = randomPhrase(rng, 'scatter', 0.2);
  if (rng.chance(0.5)) {
    return {
      text: `none of the ${phrase.many} ${rng.pick(['are', 'is'])} touching ${rng.pick(['any edge', 'the edge', 'the wall'])}`,
      key: `none${phrase.key}`,
      holds: (boxes) => countIn(boxes, (o) => phrase.test(o) && touchesAnyWall(o)) === 0,
    };
  }
  const not = rng.chance(0.4);
  return {
    text: `the ${phrase.one} is ${not ? 'not ' : rng.pick(['', 'nearly '])}touching the ${rng.pick(['wall', 'edge'])}`,
    key: `the${not ? 'not' : ''}${phrase.key}`,
    holds: (boxes) => countIn(boxes, (o) => phrase.test(o) && touchesAnyWall(o) !== not) > 0,
  };
}

/** `there are two boxes with the same number of items`. */
export function sameNumber(rng: Rng): Claim {
  const phrase = rng.chance(0.6) ? phraseOf(rng, 'scatter', {}) : randomPhrase(rng, 'scatter', 0);
  const has = rng.pick(['that has', 'which have', 'with']);
  return {
    text: `there are ${numberText(rng, 2)} boxes ${has} the same number of ${phrase.many}`,
    key: `samenumber${phrase.key}`,
    holds: (boxes) => {
      const counts = boxes.map((box) => countIn([box], phrase.test));
      return counts.some((count, i) => counts.indexOf(count) !== i);
    },
  };
}

/** `each box has at least one black item`. */
export function everyBox(rng: Rng, test: BoxTest): Claim {
  const [subject, verb] = rng.pick([
    ['each box', 'has'],
    ['each grey box', 'has'],
    ['every box', 'contains'],
    ['all the boxes', 'have'],
    ['each grey square', 'has'],
  ] as const);
  return {
    text: `${subject} ${verb} ${test.text}`,
    key: `every:${test.key}`,
    holds: (boxes) => boxes.every(test.holds),
  };
}

/** `there is at least one black item in each box`. */
export function inEachBox(rng: Rng): Claim {
  const phrase = randomPhrase(rng, 'scatter', 0);
  const quantity = randomQuantity(rng, { a: 2, atLeast: 3, exactly: 2, bare: 2, only: 1 }, 2);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, phrase.one, phrase.many, ' in each box')}`,
    key: `each:${quantity.key}${phrase.key}`,
    holds: (boxes) => boxes.every((box) => quantity.test(countIn([box], phrase.test))),
  };
}

/** `there is a box with …`, `one of the grey box has …`. */
export function someBox(rng: Rng, test: BoxTest): Claim {
  if (rng.chance(0.17)) {
    const n = rng.chance(0.75) ? 1 : 2;
    const subject = rng.pick(['of the grey box', 'of the grey boxes', 'of the boxes', 'of the grey square']);
    return {
      text: `${numberText(rng, n)} ${subject} ${n === 1 ? rng.pick(['has', 'contains']) : rng.pick(['have', 'contain'])} ${test.text}`,
      key: `some:b${n}:${test.key}`,
      holds: (boxes) => boxes.filter(test.holds).length >= n,
    };
  }
  const quantity = randomQuantity(rng, boxForms, 2);
  const noun = rng.chance(0.1) ? 'grey box' : 'box';
  const has = quantity.takesPlural
    ? rng.pick(['with', 'with', 'that have', 'which have'])
    : rng.pick(['with', 'with', 'with', 'that has', 'which has']);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, noun, `${noun}es`, ` ${has} ${test.text}`)}`,
    key: `some:${quantity.key}:${test.key}`,
    holds: (boxes) => quantity.test(boxes.filter(test.holds).length),
  };
}

/** The least or fullest box: `the grey box with least number of objects contains …`. */
export function extremeBox(rng: Rng, test: BoxTest): Claim {
  const least = rng.chance(0.5);
  return {
    text: `the ${rng.pick(['grey box', 'box'])} with ${least ? rng.pick(['the least number of', 'the fewest']) : 'the most'} ${rng.pick(['items', 'objects'])} ${rng.pick(['contains', 'has'])} ${test.text}`,
    key: `extreme${least}:${test.key}`,
    holds: (boxes) => {
      const counts = boxes.map((box) => box.objects.length);
      const wanted = least ? Math.min(...counts) : Math.max(...counts);
      return boxes.some((box) => box.objects.length === wanted && test.holds(box));
    },
  };
}

/** A statement in NLVR's language about scatter boxes. */
export function scatterClaim(rng: Rng): Claim {
  switch (rng.weighted({ count: 6, some: 8, every: 0.8, each: 0.6, none: 0.8, same: 0.3, extreme: 0.2, only: 0.1 })) {
    case 'count':
      return scatterCount(rng);
    case 'some':
      return someBox(rng, scatterTest(rng));
    case 'every':
      return everyBox(rng, countTest(rng));
    case 'each':
      return inEachBox(rng);
    case 'none':
      return scatterNone(rng);
    case 'same':
      return sameNumber(rng);
    case 'extreme':
      return extremeBox(rng, countTest(rng));
    case 'only': {
      const quantity = quantityOf(rng, 'exactly', rng.int(1, 3));
      const test = onlyColors(rng);
      return {
        text: `there ${quantity.takesPlural ? 'are' : 'is'} ${counted(quantity, 'box', 'boxes')} with ${test.text} in it`,
        key: `onlybox${quantity.key}${test.key}`,
        holds: (boxes) => quantity.test(boxes.filter(test.holds).length),
      };
    }
  }
}
