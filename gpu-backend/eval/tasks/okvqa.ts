import { normalizeEvalAi } from '../parsers/vqa.ts';
import type { EvalTask } from '../task.ts';
import { cocoPaths } from './vqa-rows.ts';
import { SHORT_ANSWER, type VqaBenchmark, vqaTask } from './vqa-task.ts';

const okVqa: VqaBenchmark = {
  name: 'okvqa',
  title: 'OK-VQA (Marino et al. 2019)',
  version: 1,
  form: {
    split: 'val2014',
    expected:
      'OK-VQA (Parquet of lmms-lab/OK-VQA, or OpenEnded_mscoco_val2014_questions.json with mscoco_val2014_annotations.json)',
    alsoNamed: (path, split) =>
      /(^|\/)(OpenEnded_)?mscoco_[a-z0-9]+_(questions|annotations)\.json$/.test(path) && path.includes(`_${split}_`),
    categoryColumn: 'question_type',
    picturePaths: cocoPaths,
  },
  // As published there is no bound but the model's; an answer of more words agrees with no annotator.
  maxTokens: 64,
  suffix: `\nWhen the provided information is insufficient, respond with 'Unanswerable'.${SHORT_ANSWER}`,
  question: 'as published',
  writeQuestion: (question) => question,
  normalization: 'EvalAI',
  normalize: normalizeEvalAi,
  sources: [
    'https://okvqa.allenai.org',
    'https://huggingface.co/datasets/lmms-lab/OK-VQA',
    'lmms-eval: ok_vqa_val2014',
  ],
};

export const okVqaTask = (): EvalTask => vqaTask(okVqa);
