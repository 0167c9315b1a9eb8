import type { BenchmarkRunSource } from '../../../../shared/contract/evals.ts';
import { taskNamed } from '../../../eval/registry.ts';
import type { EvalTask } from '../../../eval/task.ts';
import { type SkillItem, skillsTask } from '../../../eval/tasks/skills.ts';
import { sha256Hex } from '../../../io/digest.ts';
import { heldOutItems, trainedSetSizes } from '../../../train/nano/heldout.ts';
import { boxSidePx } from '../../../train/nano/scene.ts';
import { encodePng } from '../../../vision/encode.ts';

/** Made, not read: the benchmark without files. */
export const SKILLS = 'skills';
const PER_SKILL = 250;

/** The task that reads answers, without any questions: parser and score. */
export function scoringTask(
  name: string,
  { answer_by: answerBy }: Pick<BenchmarkRunSource, 'answer_by'> = {},
): EvalTask {
  const options = answerBy === undefined ? {} : { answerBy };
  return name === SKILLS ? skillsTask([], {}, options) : taskNamed(name, options);
}

/** The task with its questions: of files, or made here. */
export async function askingTask(name: string, options: BenchmarkRunSource): Promise<EvalTask> {
  if (name !== SKILLS) return scoringTask(name, options);
  const { per_skill: perSkill = PER_SKILL, seed = 0, images } = options.skills ?? {};
  const sizes = images === undefined ? trainedSetSizes : [images];
  const items: SkillItem[] = [];
  for (const item of heldOutItems(perSkill, seed, sizes)) {
    const pictures = item.images.map(async (pixels_HWC) => {
      const bytes = await encodePng({ width: boxSidePx, height: boxSidePx, pixels_HWC }, 1);
      return { sha256: sha256Hex(bytes), bytes: async () => bytes };
    });
    items.push({ ...item, images: await Promise.all(pictures) });
  }
  const origin = { seed, perSkill, pictures: [...new Set(sizes)].join(', ') };
  return skillsTask(items, origin, options.answer_by === undefined ? {} : { answerBy: options.answer_by });
}
