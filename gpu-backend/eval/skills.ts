import { bestChoices, type RunOptions, type ScoreChoices } from './scoring.ts';
import { clusteredShare } from './statistics/clustered.ts';

/** One generated question over a few images; `answer` is one of `choices`. */
export interface SkillQuestion<Image> {
  readonly id: string;
  /** `coreference`, `comparison`, `reasoning` or `temporal`. */
  readonly skill: string;
  readonly images: readonly Image[];
  readonly question: string;
  readonly choices: readonly string[];
  readonly answer: string;
}

export interface SkillScore {
  accuracy: number;
  /** What always giving the commonest right answer among questions with the same choices would reach. */
  majority: number;
  items: number;
}

export interface SkillsReport {
  task: 'skills';
  control: 'none' | 'text-only';
  accuracy: number;
  accuracyStandardError: number;
  accuracyInterval95: [number, number];
  items: number;
  bySkill: Record<string, SkillScore>;
  /** Accuracy by the number of images in the question. */
  byImages: Record<string, number>;
}

export interface SkillsOptions<Image> extends RunOptions {
  readonly control?: 'none' | 'text-only';
  readonly score: ScoreChoices<Image>;
}

function majorityShare<Image>(questions: readonly SkillQuestion<Image>[]): number {
  const byChoices = new Map<string, Map<string, number>>();
  for (const { choices, answer } of questions) {
    const key = choices.join('|');
    const counts = byChoices.get(key) ?? new Map<string, number>();
    counts.set(answer, (counts.get(answer) ?? 0) + 1);
    byChoices.set(key, counts);
  }
  let commonest = 0;
  for (const counts of byChoices.values()) commonest += Math.max(...counts.values());
  return commonest / questions.length;
}

/** Asks every question once, images first, and scores by the best of its choices. @throws on an answer outside its choices */
export async function evaluateSkills<Image>(
  questions: readonly SkillQuestion<Image>[],
  options: SkillsOptions<Image>,
): Promise<SkillsReport> {
  const { control = 'none', score } = options;
  const requests = questions.map(({ id, images, question, choices, answer }) => {
    if (!choices.includes(answer))
      throw new Error(`skill item ${id}: answer \`${answer}\` is not among ${choices.join(', ')}`);
    const shown = control === 'text-only' ? [] : images;
    return { parts: [...shown.map((_, image) => ({ image })), question], images: shown, choices };
  });
  const answers = await bestChoices(requests, score, options);
  const right = questions.map(({ choices, answer }, i) => choices[answers[i] ?? -1] === answer);
  const { share, standardError, interval95 } = clusteredShare(
    questions.map(({ id }, i) => ({ cluster: id, right: right[i] === true })),
  );
  const shareOf = (pick: (question: SkillQuestion<Image>) => boolean) => {
    const picked = questions.flatMap((question, i) => (pick(question) ? [right[i] === true] : []));
    return picked.filter(Boolean).length / picked.length;
  };
  const bySkill: Record<string, SkillScore> = {};
  for (const skill of new Set(questions.map((question) => question.skill))) {
    const own = questions.filter((question) => question.skill === skill);
    bySkill[skill] = {
      accuracy: shareOf((question) => question.skill === skill),
      majority: majorityShare(own),
      items: own.length,
    };
  }
  const byImages: Record<string, number> = {};
  for (const count of [...new Set(questions.map(({ images }) => images.length))].sort((a, b) => a - b)) {
    byImages[count] = shareOf(({ images }) => images.length === count);
  }
  return {
    task: 'skills',
    control,
    accuracy: share,
    accuracyStandardError: standardError,
    accuracyInterval95: interval95,
    items: questions.length,
    bySkill,
    byImages,
  };
}
