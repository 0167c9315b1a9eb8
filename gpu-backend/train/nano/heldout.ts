import { randomSet } from './generate.ts';
import { BalancedClaims } from './grammar.ts';
import type { Question } from './perception.ts';
import { Rng } from './random.ts';
import { type Box, renderBox } from './scene.ts';
import { randomSequence } from './sequence.ts';
import { comparison, coreference, reasoning, type Skill, skills, temporal } from './skills.ts';

/** One held-out question: a fresh set of images, one question, the answers to choose from. */
export interface SkillItem {
  id: string;
  skill: Skill;
  /** RGB bytes, 100x100x3 each. */
  images: Uint8Array[];
  question: string;
  choices: readonly string[];
  answer: string;
}

/** Towers among the sets of boxes; about the share they have in NLVR. */
export const towerShare = 0.6;

/** Numbers of images that the skills are trained on, drawn evenly; statements also know sets of one. */
export const trainedSetSizes = [2, 2, 3, 3, 3] as const;

/** Training seeds are below 2^32; held-out items live above, so no stream of dialogues can meet them. */
const heldOutSeed = 0x7e57_0000_0001;

function draw(
  rng: Rng,
  skill: Skill,
  claims: BalancedClaims,
  setSizes: readonly number[],
): { boxes: readonly Box[]; question: Question } {
  const kind = rng.chance(towerShare) ? 'tower' : 'scatter';
  const count = rng.pick(setSizes);
  if (skill === 'temporal') {
    const sequence = randomSequence(rng, count, kind);
    return { boxes: sequence.frames, question: temporal(rng, sequence) };
  }
  const boxes = randomSet(rng, kind, count);
  const make = { coreference, comparison, reasoning }[skill];
  return { boxes, question: make(rng, boxes, claims) };
}

/**
 * The generated held-out set: `perSkill` items for each of the four skills, the same for the same arguments.
 * @param seed chooses another set of the same kind
 * @param setSizes numbers of images of a question, drawn evenly; at most 9, so that a number is one digit
 */
export function heldOutItems(perSkill: number, seed = 0, setSizes: readonly number[] = trainedSetSizes): SkillItem[] {
  const claims = new BalancedClaims();
  return skills.flatMap((skill, s) =>
    Array.from({ length: perSkill }, (_, i): SkillItem => {
      const rng = new Rng(heldOutSeed + seed, s * 1_000_003 + i);
      const { boxes, question } = draw(rng, skill, claims, setSizes);
      const choices = question.choices;
      if (!choices?.includes(question.answer)) {
        throw new Error(`held-out item ${skill}-${i}: answer \`${question.answer}\` is not among its choices`);
      }
      return {
        id: `${skill}-${i}`,
        skill,
        images: boxes.map(renderBox),
        question: question.user,
        choices,
        answer: question.answer,
      };
    }),
  );
}
