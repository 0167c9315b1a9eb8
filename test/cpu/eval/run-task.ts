/** A small task whose pictures are never looked at: forty records of two pictures, two options, ten groups. */
import { createHash } from 'node:crypto';
import type { EvalImage } from '../../../gpu-backend/eval/task.ts';
import { skillsTask } from '../../../gpu-backend/eval/tasks/skills.ts';

const picture = (name: string): EvalImage => ({
  sha256: createHash('sha256').update(name).digest('hex'),
  bytes: async () => new TextEncoder().encode(name),
});

export const task = skillsTask(
  Array.from({ length: 40 }, (_, i) => ({
    id: `q${i}`,
    skill: ['coreference', 'comparison', 'reasoning', 'temporal'][i % 4] ?? '',
    group: `g${i % 10}`,
    images: [picture(`left ${i}`), picture(`right ${i}`)],
    question: `Which is larger, in picture pair ${i}?`,
    choices: ['left', 'right'],
    answer: i % 3 === 0 ? 'left' : 'right',
  })),
  { made: 'by hand' },
);

export const records = await task.open({ paths: [] });
