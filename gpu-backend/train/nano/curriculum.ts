import type { Phase } from './samples.ts';

const common = { turns: [9, 14] as const, shiftedShare: 0.4, peopleShare: 0.6, placesShare: 0.25, movingShare: 0.7 };
const easySets = { statementSets: [1, 1, 2, 2, 3], skillSets: [2, 2, 3] };
const fullSets = { statementSets: [1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 6, 8], skillSets: [2, 2, 3, 3, 3, 4, 5, 6, 7, 8] };

/** Ends of phases, in dialogues of a run of `total`. */
const partOf =
  (total: number) =>
  (share: number): number =>
    Math.round(share * total);

/**
 * The order of things, after a vision tower that already sees (tower.ts): say what is in a picture, then answer image by
 * image, where every answer is several facts that the words do not give away, then judge statements about sets, then people's
 * own. True or false alone teaches little at first: it is one bit a question, and no gradient until attributes are looked up.
 * @param total dialogues of the whole run
 */
export function nanoCurriculum(total: number): Phase[] {
  const upTo = partOf(total);
  return [
    {
      until: upTo(0.04),
      mix: { caption: 5, perception: 4 },
      eachShare: 0.5,
      describeChance: 0.4,
      ...common,
      ...easySets,
    },
    {
      until: upTo(0.25),
      mix: { caption: 0.7, perception: 3, statements: 4, skills: 1, temporal: 0.7 },
      eachShare: 0.6,
      describeChance: 0.1,
      tallyChance: 0.25,
      describeWeight: 0.5,
      ...common,
      ...easySets,
    },
    {
      until: upTo(0.6),
      mix: { perception: 0.8, statements: 4.5, skills: 2.5, temporal: 1.5, real: 0.8, blind: 0.1 },
      eachShare: 0.35,
      describeChance: 0.05,
      tallyChance: 0.25,
      describeWeight: 0.3,
      ...common,
      ...fullSets,
    },
    {
      until: upTo(0.68),
      mix: { perception: 1, statements: 4.5, skills: 2.5, temporal: 1.2, real: 1.5, blind: 0.25 },
      towerShare: 0.4,
      eachShare: 0.25,
      describeChance: 0.04,
      tallyChance: 0.2,
      describeWeight: 0.3,
      ...common,
      ...fullSets,
    },
    {
      until: Infinity,
      mix: { perception: 0.6, statements: 5, skills: 2.6, temporal: 1.6, real: 2, blind: 0.3 },
      towerShare: 0.5,
      eachShare: 0.15,
      describeChance: 0.03,
      tallyChance: 0.15,
      describeWeight: 0.3,
      ...common,
      ...fullSets,
      statementSets: [1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6],
      realPictureShare: 0.7,
      peopleShare: 0.7,
    },
  ];
}

/**
 * For a trained model, which reads sets of three well and knows places (place-stage.ts). What it still has to learn is numbers, above
 * all over larger sets: how many images, how many in all, which image.
 * @param total dialogues of the whole run
 */
export function continuedCurriculum(total: number): Phase[] {
  const mixture: Omit<Phase, 'until'> = {
    mix: { perception: 0.5, statements: 3.6, skills: 4.6, temporal: 3.2, real: 0.9, blind: 0.25 },
    towerShare: 0.45,
    eachShare: 0.22,
    numbersShare: 0.5,
    describeChance: 0.03,
    tallyChance: 0.15,
    describeWeight: 0.3,
    ...common,
    placesShare: 0.15,
    movingShare: 0.9,
    statementSets: [1, 2, 3, 3, 3, 3, 3, 4, 5, 6, 6, 7, 8],
    skillSets: [2, 2, 3, 3, 3, 3, 4, 5, 6, 6, 7, 8],
    toldMovingShare: 0.65,
    storySets: [2, 3, 3, 3, 3, 4, 5, 5, 6, 6, 7, 8],
    realPictureShare: 0.7,
    peopleShare: 0.7,
  };
  return [
    { until: partOf(total)(0.7), ...mixture },
    { until: Infinity, ...mixture, numbersShare: 0.35 },
  ];
}
