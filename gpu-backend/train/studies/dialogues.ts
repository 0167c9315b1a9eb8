import { eachQuestion } from '../nano/each.ts';
import { randomSet } from '../nano/generate.ts';
import { BalancedClaims } from '../nano/grammar.ts';
import { describeQuestion, perceptionQuestion, type Question } from '../nano/perception.ts';
import { Rng } from '../nano/random.ts';
import type { Box } from '../nano/scene.ts';
import { randomSequence } from '../nano/sequence.ts';
import { comparison, coreference, reasoning, type Skill, temporal } from '../nano/skills.ts';
import type { Dialogue } from './forms.ts';

/** What a dialogue is about: what is in one picture, told or asked, or one of the four skills over two or three. */
export type Topic = 'caption' | 'single' | Skill;

/** Topics and how often each is drawn. */
export type Mix = Readonly<Partial<Record<Topic, number>>>;

/**
 * Sets of the skills. Towers alone: their blocks lie on the tower's patches, so that what a study is about, and not fine
 * places in scatters, decides how well a short run does.
 */
const setSizes = [2, 3, 3] as const;
const questionsPerDialogue = 6;
/** Share of a skill's questions that are answered image by image, which teaches attributes far quicker than true or false (each.ts). */
const eachShare = 0.35;

/** So often a question is drawn again that is answered with true or false. */
const directTries = 16;

/** Held-out questions come from seeds above all training seeds, which are below 2^32. */
const heldOutSeed = 0x57ed_0000_0001;

/** One held-out question; `choices` are the answers a score compares. */
export interface Item {
  readonly id: string;
  readonly boxes: readonly Box[];
  readonly question: Question & { readonly choices: readonly string[] };
}

interface Scene {
  readonly boxes: readonly Box[];
  readonly ask: (rng: Rng) => Question;
  /** Questions there are to ask; fewer for what happens in one sequence. */
  readonly count: number;
}

/**
 * A question that is answered with a count, a color or the number of an image wherever there is one: true or false is one bit a
 * question, and in the minutes of a study no arm would learn anything from it.
 */
function direct(ask: () => Question): Question {
  let question = ask();
  for (let i = 0; i < directTries && question.choices?.[0] === 'true'; i++) question = ask();
  return question;
}

/** Draws dialogues and held-out questions; each depends on its seed and number alone. */
export class Questions {
  private readonly claims = new BalancedClaims();

  /** @param index number of the dialogue in its stream */
  dialogue(seed: number, index: number, mix: Mix): Dialogue {
    const rng = new Rng(seed, index);
    const topic = rng.weighted(mix);
    const { boxes, ask, count } = this.scene(rng, topic);
    const questions: Question[] = [];
    for (let i = 0; i < count; i++) {
      const question = topic !== 'caption' && rng.chance(eachShare) ? eachQuestion(rng, boxes) : ask(rng);
      if (!questions.some(({ user }) => user === question.user)) questions.push(question);
    }
    return { boxes, questions };
  }

  /** The same for the same arguments. @throws when a question has no answers to choose from */
  heldOut(topic: Exclude<Topic, 'caption'>, count: number): Item[] {
    return Array.from({ length: count }, (_, i): Item => {
      const rng = new Rng(heldOutSeed + heldOutStreams.indexOf(topic), i);
      const { boxes, ask } = this.scene(rng, topic);
      const question = ask(rng);
      const { choices } = question;
      if (choices?.includes(question.answer) !== true)
        throw new Error(`held-out question ${topic}-${i}: answer \`${question.answer}\` is not among its choices`);
      return { id: `${topic}-${i}`, boxes, question: { ...question, choices } };
    });
  }

  private scene(rng: Rng, topic: Topic): Scene {
    if (topic === 'temporal') {
      const sequence = randomSequence(rng, rng.pick(setSizes), 'tower');
      return { boxes: sequence.frames, ask: (r) => direct(() => temporal(r, sequence)), count: questionsPerDialogue };
    }
    const isOne = topic === 'caption' || topic === 'single';
    const boxes = randomSet(rng, 'tower', isOne ? 1 : rng.pick(setSizes));
    const ask = (r: Rng): Question => {
      switch (topic) {
        case 'caption':
          return r.chance(0.4)
            ? describeQuestion(boxes, 0)
            : r.chance(0.5)
              ? eachQuestion(r, boxes)
              : perceptionQuestion(r, boxes);
        case 'single':
          return perceptionQuestion(r, boxes);
        case 'coreference':
          return direct(() => coreference(r, boxes, this.claims));
        case 'comparison':
          return direct(() => comparison(r, boxes, this.claims));
        case 'reasoning':
          return direct(() => reasoning(r, boxes, this.claims));
      }
    };
    return { boxes, ask, count: questionsPerDialogue };
  }
}

const heldOutStreams: readonly Topic[] = ['single', 'coreference', 'comparison', 'reasoning', 'temporal'];

/** Whether a question speaks of an image by its number, or asks for the number. */
export const namesAnImage = ({ user, answersWithImage }: Question): boolean =>
  answersWithImage === true || /\bimage +\d/i.test(user);
