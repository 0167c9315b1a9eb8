import type { BenchmarkRunSource } from '../../../../shared/contract/evalBenchmarks.ts';
import { taskNamed } from '../../../eval/registry.ts';
import type { EvalTask } from '../../../eval/task.ts';
import { skillsTask } from '../../../eval/tasks/skills.ts';
import { skillFiles } from '../../../train/nano/skill-files.ts';

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
  const { items, origin } = await skillFiles({ perSkill, seed, images });
  return skillsTask(items, origin, options.answer_by === undefined ? {} : { answerBy: options.answer_by });
}
