import type { TaskOptions } from '../options.ts';
import { scoreChoice } from '../parsers/choice.ts';
import { digestRecords } from '../source/collect.ts';
import type { EvalImage, EvalPrompt, EvalRecord, EvalTask } from '../task.ts';
import { picturesFirst } from './layout.ts';

/** A generated question over a few pictures; `answer` is one of `choices`. */
export interface SkillItem {
  readonly id: string;
  /** `coreference`, `comparison`, `reasoning` or `temporal`. */
  readonly skill: string;
  /** Items of one scene or dialogue. Default: the id. */
  readonly group?: string;
  readonly images: readonly EvalImage[];
  readonly question: string;
  readonly choices: readonly string[];
  readonly answer: string;
}

const MAX_TOKENS = 16;

/**
 * The four skills of Mantis on generated pictures, without any download. Whoever generates the items hands them in, and says how they came about.
 * @param origin of the items for the report: seed, questions a skill, version of the generator
 * @throws Error where an answer is not among its choices
 */
export function skillsTask(
  items: readonly SkillItem[],
  origin: { readonly [key: string]: string | number },
  { answerBy = 'likelihood' }: TaskOptions = {},
): EvalTask {
  const isCompared = answerBy === 'likelihood';
  const records = items.map(recordOf);
  return {
    name: 'skills',
    title: 'Four multi-image skills on generated pictures',
    version: 1,
    aggregate: 'records',
    protocol: {
      origin,
      prompt: `all pictures, then the question${isCompared ? '' : ', a new line and: Answer with one of: {choices}.'}`,
      parser: 'the choice; of a written answer the one choice that it is, or holds as words, in any case',
      score: 'accuracy over all questions',
      maxTokens: MAX_TOKENS,
      answerBy,
    },
    open: async ({ limit }) => {
      const asked = records.slice(0, limit);
      return {
        length: asked.length,
        digest: digestRecords(asked),
        ...(asked.length < records.length ? { chosen: { how: 'first', of: records.length } as const } : {}),
        get: async (index) => {
          const record = asked[index];
          if (record === undefined) throw new RangeError(`record ${index} does not exist; there are ${asked.length}`);
          return record;
        },
        close: async () => {},
      };
    },
    prompt: (record): EvalPrompt => ({
      parts: picturesFirst(
        record.question + (isCompared ? '' : `\nAnswer with one of: ${record.options.join(', ')}.`),
        record.images.length,
      ),
      images: record.images,
      maxTokens: MAX_TOKENS,
      ...(isCompared ? { choices: record.options } : {}),
    }),
    score: (answer, record) => scoreChoice(answer, record.options, record.answers[0] ?? ''),
  };
}

function recordOf({ id, skill, group = id, images, question, choices, answer }: SkillItem): EvalRecord {
  if (!choices.includes(answer))
    throw new Error(
      `skill item ${id}: expected an answer among ${choices.join(', ')}, received ${JSON.stringify(answer)}`,
    );
  return {
    id,
    group,
    category: skill,
    images,
    question,
    options: choices,
    answers: [answer],
    fields: { pictures: images.length },
  };
}
