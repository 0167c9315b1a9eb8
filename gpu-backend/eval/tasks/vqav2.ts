import { normalizeVqa } from '../parsers/vqa.ts';
import type { EvalTask } from '../task.ts';
import { cocoPaths } from './vqa-rows.ts';
import { SHORT_ANSWER, type VqaBenchmark, vqaTask } from './vqa-task.ts';

const vqaV2: VqaBenchmark = {
  name: 'vqav2',
  title: 'VQAv2 (Goyal et al. 2017)',
  version: 1,
  form: {
    split: 'validation',
    expected:
      'VQAv2 (Parquet of lmms-lab/VQAv2, or v2_OpenEnded_mscoco_val2014_questions.json with v2_mscoco_val2014_annotations.json)',
    alsoNamed: (path, split) => {
      const year = split === 'validation' ? 'val2014' : split;
      return (
        /(^|\/)v2_(OpenEnded_)?mscoco_[a-z0-9-]+_(questions|annotations)\.json$/.test(path) &&
        path.includes(`_${year}_`)
      );
    },
    categoryColumn: 'answer_type',
    picturePaths: cocoPaths,
  },
  maxTokens: 16,
  suffix: SHORT_ANSWER,
  question: 'as published',
  writeQuestion: (question) => question,
  normalization: 'VQA',
  normalize: normalizeVqa,
  sources: [
    'https://visualqa.org/evaluation.html',
    'https://huggingface.co/datasets/lmms-lab/VQAv2',
    'lmms-eval: vqav2_val',
  ],
};

export const vqaV2Task = (): EvalTask => vqaTask(vqaV2);
