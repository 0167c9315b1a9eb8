import { numberText, withArticle } from './language.ts';
import {
  type BoxTest,
  type Claim,
  colorCount,
  counted,
  countIn,
  phraseOf,
  type Quantity,
  quantityOf,
  randomPhrase,
  randomQuantity,
  thereIs,
} from './phrases.ts';
import type { Rng } from './random.ts';
import { type Box, type Color, colors } from './scene.ts';

const colorsOf = (box: Box): Color[] => box.objects.map((o) => o.color);

function heightQuantity(rng: Rng): Quantity {
  const form = rng.weighted({ bare: 4, exactly: 3, only: 1, atLeast: 3, atMost: 1, moreThan: 0.7 });
  return quantityOf(
    rng,
    form,
    form === 'moreThan' ? rng.int(1, 3) : form === 'atLeast' ? rng.int(2, 4) : rng.int(1, 4),
  );
}

/** `with at least two blocks`, half of the time nothing. */
function withHeight(rng: Rng, chance: number): BoxTest {
  if (!rng.chance(chance)) return { text: '', key: '', holds: () => true };
  const quantity = heightQuantity(rng);
  return {
    text: ` with ${counted(quantity, 'block', 'blocks')}`,
    key: `h${quantity.key}`,
    holds: (box) => quantity.test(box.objects.length),
  };
}

interface Level {
  words: readonly string[];
  key: string;
  /** The index from the base up, or -1 where this tower has no such level. */
  of(height: number): number;
}

const base: Level = { words: ['base', 'bottom'], key: 'base', of: () => 0 };
const top: Level = { words: ['top'], key: 'top', of: (height) => height - 1 };
const second: Level = { words: ['second'], key: 'second', of: (height) => (height > 1 ? 1 : -1) };
const third: Level = { words: ['third'], key: 'third', of: (height) => (height > 2 ? 2 : -1) };
const middle: Level = { words: ['middle'], key: 'middle', of: (height) => (height === 3 ? 1 : -1) };

const levelHas = (level: Level, color: Color) => (box: Box) => {
  const at = level.of(box.objects.length);
  return at >= 0 && box.objects[at]?.color === color;
};

/** Whether a block of color `upper` stands above one of color `lower`; `direct` asks for neighbours. */
const stacked = (upper: Color, lower: Color, direct: boolean) => (box: Box) =>
  box.objects.some(
    (o, i) => o.color === upper && box.objects.some((p, j) => p.color === lower && (direct ? j === i - 1 : j < i)),
  );

function countStacked(boxes: readonly Box[], upper: Color, lower: Color): number {
  let count = 0;
  for (const { objects } of boxes) {
    for (let i = 1; i < objects.length; i++)
      if (objects[i]?.color === upper && objects[i - 1]?.color === lower) count++;
  }
  return count;
}

const longestRun = (box: Box, color: Color): number => {
  let [run, longest] = [0, 0];
  for (const o of box.objects) {
    run = o.color === color ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  return longest;
};

const atLevel = (rng: Rng): BoxTest => {
  const [level, color] = [rng.pick([base, base, top, top, second, third, middle]), rng.pick(colors)];
  const word = rng.pick(level.words);
  const text =
    level === base || level === top
      ? rng.pick([
          `a ${color} block at the ${word}`,
          `a ${color} block at the ${word}`,
          `a ${color} block at ${word}`,
          `${withArticle(color)} ${word}`,
        ])
      : level === middle
        ? rng.pick([`a ${color} block in the middle`, `a ${color} block as a middle block`])
        : rng.pick([
            `a ${color} ${word} block`,
            `a ${color} block as the ${word} level`,
            `a ${color} block as the ${word} block from the base`,
          ]);
  return { text, key: `${level.key}${color}`, holds: levelHas(level, color) };
};

const overUnder = (rng: Rng): BoxTest => {
  const [upper, lower] = [rng.pick(colors), rng.pick(colors)];
  const direct = true;
  const word = rng.pick(['above', 'over', 'on top of', 'on']);
  return {
    text: `a ${upper} block ${word} a ${lower} block`,
    key: `over${upper}${lower}`,
    holds: stacked(upper, lower, direct),
  };
};

/** A condition on one tower, for use after `tower with`. */
export function towerTest(rng: Rng): BoxTest {
  const color = rng.pick(colors);
  switch (
    rng.weighted({
      level: 6,
      height: 4,
      count: 4,
      over: 3,
      run: 1.5,
      only: 1.5,
      colors: 1.2,
      two: 2,
      heightAnd: 2.5,
      ends: 0.8,
      same: 0.6,
    })
  ) {
    case 'level':
      return atLevel(rng);
    case 'height': {
      const quantity = heightQuantity(rng);
      return {
        text: counted(quantity, 'block', 'blocks'),
        key: `h${quantity.key}`,
        holds: (box) => quantity.test(box.objects.length),
      };
    }
    case 'count': {
      const quantity = randomQuantity(rng, { bare: 4, exactly: 2, atLeast: 3, only: 2, a: 1, no: 0.4 }, 3);
      const phrase = phraseOf(rng, 'tower', { color });
      return {
        text: counted(quantity, phrase.one, phrase.many),
        key: `n${quantity.key}${color}`,
        holds: (box) => quantity.test(countIn([box], phrase.test)),
      };
    }
    case 'over':
      return overUnder(rng);
    case 'run': {
      const n = rng.int(2, 3);
      const least = rng.chance(0.3) ? 'at least ' : '';
      return {
        text: `${least}${numberText(rng, n)} ${color} blocks ${rng.pick(['stacked together', 'attached with each other', 'on top of each other'])}`,
        key: `run${n}${color}`,
        holds: (box) => longestRun(box, color) >= n,
      };
    }
    case 'only': {
      const other = rng.chance(0.6) ? rng.pick(colors.filter((c) => c !== color)) : undefined;
      return {
        text: `only ${color}${other ? ` and ${other}` : ''} ${rng.pick(['blocks', 'blocks', 'items', 'color blocks'])}`,
        key: `only${[color, other ?? ''].sort().join('')}`,
        holds: (box) =>
          colorsOf(box).every((c) => c === color || c === other) && (other === undefined || colorCount(box) === 2),
      };
    }
    case 'colors': {
      const n = rng.int(1, 3);
      const text =
        n === 1
          ? rng.pick(['only one color', 'a single color', 'blocks of the same color'])
          : `blocks of ${n === 3 ? rng.pick(['', 'all ']) : ''}${numberText(rng, n)} different ${rng.pick(['colors', 'color'])}`;
      return { text, key: `colors${n}`, holds: (box) => colorCount(box) === n };
    }
    case 'two': {
      const other = rng.pick(colors.filter((c) => c !== color));
      const [n, m] = [rng.int(1, 2), rng.int(1, 2)];
      return {
        text: `${numberText(rng, n)} ${color} ${n === 1 ? 'block' : 'blocks'} and ${numberText(rng, m)} ${other} ${m === 1 ? 'block' : 'blocks'}`,
        key: `two${n}${color}${m}${other}`,
        holds: (box) =>
          countIn([box], (o) => o.color === color) === n && countIn([box], (o) => o.color === other) === m,
      };
    }
    case 'heightAnd': {
      const quantity = heightQuantity(rng);
      const test = rng.chance(0.6) ? atLevel(rng) : overUnder(rng);
      return {
        text: `${counted(quantity, 'block', 'blocks')} ${rng.pick(['having', 'with', 'and'])} ${test.text}`,
        key: `h${quantity.key}&${test.key}`,
        holds: (box) => quantity.test(box.objects.length) && test.holds(box),
      };
    }
    case 'ends': {
      const upper = rng.pick(colors);
      return {
        text: rng.pick([
          `a ${upper} block at the top and a ${color} block at the base`,
          `a ${color} base and ${upper} top`,
        ]),
        key: `ends${color}${upper}`,
        holds: (box) => levelHas(base, color)(box) && levelHas(top, upper)(box),
      };
    }
    case 'same': {
      const n = rng.int(2, 4);
      return {
        text: `${rng.pick(['', 'exactly ', 'only '])}${numberText(rng, n)} blocks of the same ${rng.pick(['color', 'colour'])}`,
        key: `same${n}`,
        holds: (box) => box.objects.length === n && colorCount(box) === 1,
      };
    }
  }
}

/** `there are exactly two towers with …`, `two of the three towers have …`. */
export function someTower(rng: Rng, test: BoxTest): Claim {
  if (rng.chance(0.12)) {
    const n = rng.int(1, 2);
    return {
      text: `${numberText(rng, n)} of the ${rng.pick(['three towers', 'towers', '3 towers'])} ${n === 1 ? 'has' : 'have'} ${test.text}`,
      key: `some:b${n}:${test.key}`,
      holds: (boxes) => boxes.filter(test.holds).length === n,
    };
  }
  const quantity = randomQuantity(rng, { a: 6, bare: 4, exactly: 2.5, atLeast: 2.5, only: 1, no: 0.8 }, 3);
  const has = quantity.takesPlural
    ? rng.pick(['with', 'with', 'that have', 'which has'])
    : rng.pick(['with', 'with', 'with', 'that has', 'which has']);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, 'tower', 'towers', ` ${has} ${test.text}`)}`,
    key: `some:${quantity.key}:${test.key}`,
    holds: (boxes) => quantity.test(boxes.filter(test.holds).length),
  };
}

/** `there is exactly one blue block as the base of a tower with at least two blocks`. */
function blockAs(rng: Rng): Claim {
  const [level, color] = [rng.pick([base, top]), rng.pick(colors)];
  const quantity = randomQuantity(rng, { a: 5, exactly: 2, bare: 2, only: 1, no: 1, atLeast: 1.5 }, 3);
  const height = withHeight(rng, 0.65);
  const word = level === base ? 'base' : 'top';
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, `${color} block`, `${color} blocks`)} as the ${word} of a tower${height.text}`,
    key: `as${word}${quantity.key}${color}${height.key}`,
    holds: (boxes) => quantity.test(boxes.filter((box) => levelHas(level, color)(box) && height.holds(box)).length),
  };
}

/** `there is a yellow block on a black block`. */
function blockOn(rng: Rng): Claim {
  const [upper, lower] = [rng.pick(colors), rng.pick(colors)];
  const below = rng.chance(0.2);
  const word = below ? rng.pick(['below', 'bellow', 'under']) : rng.pick(['on', 'on', 'above', 'over']);
  const quantity = randomQuantity(rng, { a: 6, exactly: 1.5, no: 1, atLeast: 0.7, bare: 0.7 }, 2);
  const [first, other] = below ? [lower, upper] : [upper, lower];
  const article = rng.pick(['a', 'a', 'the']);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, `${first} block`, `${first} blocks`)} ${word} ${article} ${other} block`,
    key: `on${quantity.key}${upper}${lower}`,
    holds: (boxes) => quantity.test(countStacked(boxes, upper, lower)),
  };
}

/** `there is a blue tower with only one block`. */
function plainTower(rng: Rng): Claim {
  const [color, height] = [rng.pick(colors), withHeight(rng, 0.5)];
  const quantity = randomQuantity(rng, { a: 6, bare: 1, no: 0.5, exactly: 0.7, atLeast: 0.5 }, 2);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, `${color} tower`, `${color} towers`)}${height.text}`,
    key: `plain${quantity.key}${color}${height.key}`,
    holds: (boxes) =>
      quantity.test(boxes.filter((box) => colorsOf(box).every((c) => c === color) && height.holds(box)).length),
  };
}

/** `the tower with three blocks has a blue block at the base`. */
function theTower(rng: Rng): Claim {
  const quantity = quantityOf(rng, rng.pick(['bare', 'bare', 'exactly', 'only'] as const), rng.int(1, 4));
  const test = rng.chance(0.7) ? atLevel(rng) : overUnder(rng);
  return {
    text: `the tower with ${counted(quantity, 'block', 'blocks')} has ${test.text}`,
    key: `the${quantity.key}:${test.key}`,
    holds: (boxes) => boxes.some((box) => quantity.test(box.objects.length) && test.holds(box)),
  };
}

function everyTower(rng: Rng): Claim {
  const test = towerTest(rng);
  const [subject, has] = rng.pick([
    ['all the towers', 'have'],
    ['each tower', 'has'],
    ['all the towers', 'has'],
    ['every tower', 'has'],
  ] as const);
  return {
    text: `${subject} ${has} ${test.text}`,
    key: `every:${test.key}`,
    holds: (boxes) => boxes.every(test.holds),
  };
}

function inEachTower(rng: Rng): Claim {
  const color = rng.pick(colors);
  const quantity = randomQuantity(rng, { atLeast: 3, exactly: 2, bare: 1, a: 1, only: 1 }, 2);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, `${color} block`, `${color} blocks`)} in each tower`,
    key: `each${quantity.key}${color}`,
    holds: (boxes) => boxes.every((box) => quantity.test(countIn([box], (o) => o.color === color))),
  };
}

function alike(rng: Rng): Claim {
  const what = rng.pick(['base', 'top', 'height'] as const);
  const property = (box: Box) =>
    what === 'height' ? box.objects.length : what === 'base' ? box.objects[0]?.color : box.objects.at(-1)?.color;
  const n = rng.pick([2, 2, 3]);
  const phrase =
    what === 'height' ? rng.pick(['number of blocks', 'height']) : rng.pick([`${what} color`, `color at the ${what}`]);
  const lead = rng.pick(['exactly ', 'only ', '', 'at least ']);
  const atLeast = lead === 'at least ' || lead === '';
  return {
    text: `there are ${lead}${numberText(rng, n)} towers ${rng.pick(['that has', 'that have', 'with'])} the same ${phrase}`,
    key: `alike${atLeast}${n}${what}`,
    holds: (boxes) => {
      const values = boxes.map(property);
      const most = Math.max(...values.map((value) => values.filter((other) => other === value).length));
      return atLeast ? most >= n : most === n;
    },
  };
}

function blockTotal(rng: Rng): Claim {
  const phrase = randomPhrase(rng, 'tower');
  const quantity = randomQuantity(rng, { bare: 5, exactly: 2, atLeast: 2, moreThan: 0.5, lessThan: 0.3, no: 0.7 }, 5);
  return {
    text: `${thereIs(rng, quantity)} ${counted(quantity, phrase.one, phrase.many)}`,
    key: `all:${quantity.key}${phrase.key}`,
    holds: (boxes) => quantity.test(countIn(boxes, phrase.test)),
  };
}

/** A statement in NLVR's language about towers. */
export function towerClaim(rng: Rng): Claim {
  switch (
    rng.weighted({ some: 9, as: 4.5, on: 2.5, plain: 1, the: 1.5, every: 0.8, each: 0.4, alike: 0.6, total: 2.5 })
  ) {
    case 'some':
      return someTower(rng, towerTest(rng));
    case 'as':
      return blockAs(rng);
    case 'on':
      return blockOn(rng);
    case 'plain':
      return plainTower(rng);
    case 'the':
      return theTower(rng);
    case 'every':
      return everyTower(rng);
    case 'each':
      return inEachTower(rng);
    case 'alike':
      return alike(rng);
    case 'total':
      return blockTotal(rng);
  }
}
