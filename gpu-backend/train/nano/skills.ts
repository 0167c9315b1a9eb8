import type { BalancedClaims } from './grammar.ts';
import { scatterTest } from './grammar-scatter.ts';
import { towerTest } from './grammar-tower.ts';
import { scruffy } from './language.ts';
import { digitChoices, fullName, perceptionQuestion, type Question, truthChoices, truthText } from './perception.ts';
import { type BoxTest, type Claim, colorCount, countIn, phraseOf, randomPhrase } from './phrases.ts';
import type { Rng } from './random.ts';
import { type Box, colors, shapes } from './scene.ts';
import { directions, type Sequence } from './sequence.ts';

export const skills = ['coreference', 'comparison', 'reasoning', 'temporal'] as const;
export type Skill = (typeof skills)[number];

const boxTest = (rng: Rng, kind: Box['kind']): BoxTest => (kind === 'tower' ? towerTest(rng) : scatterTest(rng));
const kindOf = (boxes: readonly Box[]): Box['kind'] => boxes[0]?.kind ?? 'scatter';
const ask = (rng: Rng, text: string): string => scruffy(rng, text).replace(/\.$/, '') + (rng.chance(0.9) ? '?' : '');
const digit = (user: string, answer: number): Question => ({ user, answer: String(answer), choices: digitChoices });
const imageNumber = (user: string, answer: number): Question => ({ ...digit(user, answer), answersWithImage: true });
const truth = (statement: { text: string; truth: boolean }): Question => ({
  user: statement.text,
  answer: truthText(statement.truth),
  choices: truthChoices,
});

/** The index of the one image for which `test` holds; undefined when there is none or more than one. */
function only(boxes: readonly Box[], test: (box: Box) => boolean): number | undefined {
  const found = boxes.flatMap((box, i) => (test(box) ? [i] : []));
  return found.length === 1 ? found[0] : undefined;
}

/** Retries a question that does not always exist for these boxes, then falls back. */
function attempt(tries: number, make: () => Question | undefined, fallback: () => Question): Question {
  for (let i = 0; i < tries; i++) {
    const question = make();
    if (question) return question;
  }
  return fallback();
}

/** Co-reference: text that names an image by its number, or asks for the number. */
export function coreference(rng: Rng, boxes: readonly Box[], claims: BalancedClaims): Question {
  const kind = kindOf(boxes);
  switch (rng.weighted({ shows: 4, which: 2, perceive: 3 })) {
    case 'shows':
      return truth(
        claims.statement(rng, boxes, (r): Claim => {
          const [image, test] = [r.int(0, boxes.length - 1), boxTest(r, kind)];
          const verb = r.pick(['shows', 'shows', 'has', 'contains']);
          return {
            text: `image ${image + 1} ${verb} ${kind === 'tower' && verb === 'shows' ? 'a tower with ' : ''}${test.text}`,
            key: `image${image}:${test.key}`,
            holds: (all) => test.holds(all[image] as Box),
          };
        }),
      );
    case 'which':
      return attempt(
        8,
        () => {
          const test = boxTest(rng, kind);
          const found = only(boxes, test.holds);
          if (found === undefined) return undefined;
          return imageNumber(
            ask(rng, `which image ${kind === 'tower' ? 'has a tower with' : 'shows'} ${test.text}`),
            found + 1,
          );
        },
        () => perceptionQuestion(rng, boxes),
      );
    case 'perceive': {
      const question = perceptionQuestion(rng, boxes);
      return { ...question, user: ask(rng, question.user.replace(/\?$/, '')) };
    }
  }
}

const sameLook = (a: Box, b: Box): boolean => {
  const sort = (box: Box) =>
    box.objects
      .map((o) => `${fullName(o)}${o.x},${o.y}`)
      .sort()
      .join();
  return sort(a) === sort(b);
};

function pairClaim(rng: Rng, boxes: readonly Box[]): Claim {
  const kind = kindOf(boxes);
  const [first, second] = rng.sample(
    boxes.map((_, i) => i),
    2,
  ) as [number, number];
  const at = (all: readonly Box[]): [Box, Box] => [all[first] as Box, all[second] as Box];
  const [left, right] = [`image ${first + 1}`, `image ${second + 1}`];
  const phrase = rng.chance(0.35) ? phraseOf(rng, kind, {}) : randomPhrase(rng, kind, 0);
  switch (rng.weighted({ more: 4, fewer: 1.5, equal: 2, same: 0.7, end: kind === 'tower' ? 3 : 0, colors: 1 })) {
    case 'more':
      return {
        text: `${left} has more ${phrase.many} than ${right}`,
        key: `more${first}${second}${phrase.key}`,
        holds: (all) => countIn([at(all)[0]], phrase.test) > countIn([at(all)[1]], phrase.test),
      };
    case 'fewer':
      return {
        text: `${left} has fewer ${phrase.many} than ${right}`,
        key: `fewer${first}${second}${phrase.key}`,
        holds: (all) => countIn([at(all)[0]], phrase.test) < countIn([at(all)[1]], phrase.test),
      };
    case 'equal':
      return {
        text: `${left} and ${right} have the same number of ${phrase.many}`,
        key: `equal${first}${second}${phrase.key}`,
        holds: (all) => countIn([at(all)[0]], phrase.test) === countIn([at(all)[1]], phrase.test),
      };
    case 'same':
      return {
        text: `${left} and ${right} are the same`,
        key: `same${first}${second}`,
        holds: (all) => sameLook(...at(all)),
      };
    case 'end': {
      const end = rng.pick(['top', 'base'] as const);
      const color = (box: Box) => (end === 'top' ? box.objects.at(-1) : box.objects[0])?.color;
      return {
        text: `${left} and ${right} have the same color at the ${end}`,
        key: `end${end}${first}${second}`,
        holds: (all) => color(at(all)[0]) === color(at(all)[1]),
      };
    }
    case 'colors':
      return {
        text: `${left} has more colors than ${right}`,
        key: `colors${first}${second}`,
        holds: (all) => colorCount(at(all)[0]) > colorCount(at(all)[1]),
      };
  }
}

/** Comparison: two images against each other, or the extreme of all. Needs at least two images. */
export function comparison(rng: Rng, boxes: readonly Box[], claims: BalancedClaims): Question {
  const kind = kindOf(boxes);
  if (rng.chance(0.7)) return truth(claims.statement(rng, boxes, (r) => pairClaim(r, boxes)));
  return attempt(
    6,
    () => {
      const phrase = rng.chance(0.4) ? phraseOf(rng, kind, {}) : randomPhrase(rng, kind, 0);
      const counts = boxes.map((box) => countIn([box], phrase.test));
      const most = rng.chance(0.7);
      const wanted = most ? Math.max(...counts) : Math.min(...counts);
      if (counts.indexOf(wanted) !== counts.lastIndexOf(wanted)) return undefined;
      return imageNumber(
        ask(rng, `which image has the ${most ? 'most' : 'fewest'} ${phrase.many}`),
        counts.indexOf(wanted) + 1,
      );
    },
    () => truth(claims.statement(rng, boxes, (r) => pairClaim(r, boxes))),
  );
}

/** Reasoning: statements and counts over the whole set. */
export function reasoning(rng: Rng, boxes: readonly Box[], claims: BalancedClaims): Question {
  const kind = kindOf(boxes);
  switch (rng.weighted({ statement: 7, images: 1.5, total: 1.5 })) {
    case 'statement':
      return truth(claims.statement(rng, boxes));
    case 'images': {
      const test = boxTest(rng, kind);
      const words = kind === 'tower' ? 'towers' : 'images';
      return digit(ask(rng, `how many ${words} have ${test.text}`), boxes.filter(test.holds).length);
    }
    case 'total':
      return attempt(
        8,
        () => {
          const phrase = randomPhrase(rng, kind, 0);
          const count = countIn(boxes, phrase.test);
          return count > 9 ? undefined : digit(ask(rng, `how many ${phrase.many} are there in all images`), count);
        },
        () => truth(claims.statement(rng, boxes)),
      );
  }
}

/** Temporal: what happens over the frames, in the order of the images. */
export function temporal(rng: Rng, { frames, story }: Sequence): Question {
  const say = (statement: string, holds: boolean) => truth({ text: scruffy(rng, statement), truth: holds });
  switch (story.event) {
    case 'moves': {
      const name = rng.chance(0.5) ? fullName(story.object) : `${story.object.color} ${story.object.shape}`;
      const unique =
        frames[0]?.objects.filter((o) => o.color === story.object.color && o.shape === story.object.shape).length === 1;
      const what = unique ? name : fullName(story.object);
      if (rng.chance(0.6))
        return { user: ask(rng, `which way does the ${what} move`), answer: story.direction, choices: directions };
      const claimed = rng.chance(0.5) ? story.direction : rng.pick(directions.filter((d) => d !== story.direction));
      return say(`the ${what} moves ${claimed}`, claimed === story.direction);
    }
    case 'appears':
      return rng.chance(0.6)
        ? imageNumber(ask(rng, `in which image does the ${fullName(story.object)} first appear`), story.frame)
        : rng.chance(0.5)
          ? {
              user: ask(rng, `what color is the new item in image ${story.frame}`),
              answer: story.object.color,
              choices: colors,
            }
          : {
              user: ask(rng, `what shape is the new item in image ${story.frame}`),
              answer: story.object.shape,
              choices: shapes,
            };
    case 'vanishes':
      return rng.chance(0.6)
        ? imageNumber(ask(rng, `in which image is the ${fullName(story.object)} gone`), story.frame)
        : rng.chance(0.5)
          ? {
              user: ask(rng, `what color is the item that is gone in image ${story.frame}`),
              answer: story.object.color,
              choices: colors,
            }
          : {
              user: ask(rng, `what shape is the item that is gone in image ${story.frame}`),
              answer: story.object.shape,
              choices: shapes,
            };
    case 'recolors':
      return rng.chance(0.5)
        ? imageNumber(ask(rng, `in which image does the ${fullName(story.object)} change its color`), story.frame)
        : { user: ask(rng, `what color does the ${fullName(story.object)} become`), answer: story.to, choices: colors };
    case 'repaints':
      return rng.chance(0.5)
        ? imageNumber(ask(rng, 'in which image does a block change its color'), story.frame)
        : { user: ask(rng, 'what color does the changed block become'), answer: story.to, choices: colors };
    default: {
      if (story.event !== 'stays' && rng.chance(0.35)) {
        const heights = frames.map((frame) => frame.objects.length);
        const change = Math.abs((heights.at(-1) ?? 0) - (heights[0] ?? 0));
        return digit(
          ask(
            rng,
            `how many blocks are ${story.event === 'grows' ? 'added' : 'taken away'} from image 1 to image ${frames.length}`,
          ),
          change,
        );
      }
      const claimed = rng.chance(0.5)
        ? story.event
        : rng.pick((['grows', 'shrinks', 'stays'] as const).filter((e) => e !== story.event));
      const words = claimed === 'stays' ? 'stays the same' : claimed;
      return say(`the tower ${words}`, claimed === story.event);
    }
  }
}
