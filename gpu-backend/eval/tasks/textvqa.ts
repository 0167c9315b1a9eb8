import { capitalize } from '../parsers/python-text.ts';
import { normalizeEvalAi } from '../parsers/vqa.ts';
import type { EvalTask } from '../task.ts';
import { SHORT_ANSWER, type VqaBenchmark, vqaTask } from './vqa-task.ts';

const textVqa: VqaBenchmark = {
  name: 'textvqa',
  title: 'TextVQA (Singh et al. 2019)',
  version: 1,
  form: {
    split: 'validation',
    expected: 'TextVQA (Parquet of lmms-lab/textvqa, or TextVQA_0.5.1_val.json)',
    alsoNamed: (path, split) => path.endsWith(`TextVQA_0.5.1_${split === 'validation' ? 'val' : split}.json`),
    categoryColumn: null,
    picturePaths: (row, split) => {
      const name = `${row.label('image_id')}.jpg`;
      // The validation set's pictures are in the training set's folder.
      return [name, `${split === 'test' ? 'test_images' : 'train_images'}/${name}`, `images/${name}`];
    },
  },
  // As published there is no bound but the model's; an answer of more words agrees with no annotator.
  maxTokens: 64,
  suffix: SHORT_ANSWER,
  question: 'capitalised',
  writeQuestion: capitalize,
  normalization: 'EvalAI',
  normalize: normalizeEvalAi,
  sources: ['https://textvqa.org', 'https://huggingface.co/datasets/lmms-lab/textvqa', 'lmms-eval: textvqa_val'],
};

export const textVqaTask = (): EvalTask => vqaTask(textVqa);
