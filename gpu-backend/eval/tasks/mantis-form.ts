import type { AnswerBy, TaskOptions } from '../options.ts';
import { type MantisQuestion, referenceLetter, scoreMantis } from '../parsers/mantis.ts';
import { againstReference } from '../parsers/reference.ts';
import { pictureGroup } from '../source/collect.ts';
import type { PictureReader } from '../source/pictures.ts';
import type { Row } from '../source/row.ts';
import type { EvalPrompt, EvalRecord, EvalSource, EvalTask } from '../task.ts';
import { interleave, withoutMarks } from './layout.ts';

const MULTI_CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly.";
const SHORT_ANSWER_HEAD = 'Given the images, answer the following short answer vqa question:';
const SHORT_ANSWER_TAIL = 'You can first give your analysis, and then give your final answer as "Final Answer:"';
/** Of the paper's Idefics2 wrapper; its LLaVA and Fuyu wrappers let 4,096 pass, which no answer of a letter comes near. */
const MAX_TOKENS = 512;

/** How one of the three benchmarks of the Mantis form differs from the others. */
export interface MantisTask {
  readonly name: string;
  readonly title: string;
  readonly version: number;
  readonly split: string;
  /** NLVR2's rule for an answer without a letter. */
  readonly acceptsTrueFalse: boolean;
  /** Further facts of the protocol. */
  readonly notes?: { readonly [key: string]: string };
  open(source: EvalSource): ReturnType<EvalTask['open']>;
}

/** NLVR2, Q-Bench2 and Mantis-Eval as the Mantis paper asks and scores them (mantis/benchmark/eval.py and its templates). */
export function mantisTask(task: MantisTask, { answerBy = 'generation' }: TaskOptions = {}): EvalTask {
  return {
    name: task.name,
    title: task.title,
    version: task.version,
    aggregate: 'records',
    protocol: {
      split: task.split,
      multiChoicePrompt: `{question}, for each option a line " (A) {option}" (without the letter where the option holds it), "${MULTI_CHOICE_INSTRUCTION}"`,
      shortAnswerPrompt: `${SHORT_ANSWER_HEAD}\nQ: {question}\n${SHORT_ANSWER_TAIL}`,
      pictures: 'at their <image> marks; those without one in front',
      parser: `after the first "final answer:", else "the answer is", else "answer:"; "Answer: X", else the first letter; out of range: ${task.acceptsTrueFalse ? 'a lone true or false' : 'the exact option text'}; short answers: lower-case equality`,
      score: 'accuracy over all questions',
      maxTokens: MAX_TOKENS,
      answerBy,
      ...task.notes,
    },
    open: task.open,
    prompt: (record) => promptOf(record, answerBy),
    score: (answer, record) =>
      againstReference(record, (reference) =>
        scoreMantis(answer, questionOf(record, reference, task.acceptsTrueFalse)),
      ),
  };
}

/** The options of a record with the letters that they were published with, by place. */
export function publishedOptions({ options, fields }: EvalRecord): readonly string[] {
  const letters = fields.letters;
  return Array.isArray(letters) ? options.map((option, i) => `${letters[i] ?? ''}${option}`) : options;
}

function questionOf(record: EvalRecord, reference: string, acceptsTrueFalse: boolean): MantisQuestion {
  return {
    type: record.fields.questionType === 'short-answer' ? 'short-answer' : 'multi-choice',
    options: publishedOptions(record),
    reference,
    acceptsTrueFalse,
  };
}

function promptOf(record: EvalRecord, answerBy: AnswerBy): EvalPrompt {
  const isShort = record.fields.questionType === 'short-answer';
  const lines = publishedOptions(record).map((option, i) => {
    const letter = String.fromCharCode(65 + i);
    const upper = option.toUpperCase();
    // As published: the letter counts as held wherever it stands, so that "vitamin A." as option A gets none.
    const holdsLetter = [`${letter})`, `${letter}:`, `${letter}.`].some((form) => upper.includes(form));
    return holdsLetter ? `\n ${option}` : `\n (${letter}) ${option}`;
  });
  const text = isShort
    ? `${SHORT_ANSWER_HEAD}\nQ: ${record.question}\n${SHORT_ANSWER_TAIL}`
    : `${record.question}${lines.join('')}\n${MULTI_CHOICE_INSTRUCTION}`;
  return {
    parts: interleave(text, record.images.length),
    images: record.images,
    maxTokens: MAX_TOKENS,
    mergedText: withoutMarks(text),
    ...(answerBy === 'likelihood' && !isShort ? { choices: letters(record.options.length) } : {}),
  };
}

/** `A`, `B`, … */
export function letters(count: number): string[] {
  return Array.from({ length: count }, (_, i) => String.fromCharCode(65 + i));
}

/** Letters that all options begin with, each its own, are taken off them: `(A) one`, `B. two`, `C: three`. */
export function splitLetters(published: readonly string[]): {
  readonly options: readonly string[];
  readonly letters: readonly string[] | null;
} {
  const found = published.map((option, i) => {
    const letter = String.fromCharCode(65 + i);
    return new RegExp(`^\\s*(?:\\(${letter}\\)|${letter}[.:)])\\s*`).exec(option)?.[0];
  });
  if (!found.every((one) => one !== undefined)) return { options: published, letters: null };
  return { options: published.map((option, i) => option.slice(found[i]?.length)), letters: found };
}

const LETTER_ALONE = /^\s*[([]?\s*[A-Za-z]\s*[)\].:]?\s*$/;

/** A row of `id, question_type, question, images, options, answer, data_source, category` as a record. */
export async function mantisRecord(
  row: Row,
  pictures: PictureReader,
  imageFolder: string,
  groupOf?: (id: string) => string,
): Promise<EvalRecord> {
  const id = row.label('id');
  const questionType = row.text('question_type');
  if (questionType !== 'multi-choice' && questionType !== 'short-answer')
    row.fail('question_type', '"multi-choice" or "short-answer"');
  const isShort = questionType === 'short-answer';
  const images = [];
  for (const [i, value] of row.list('images').entries())
    images.push(await pictures.take(value, imageFolder, `${row.where('images')}, picture ${i + 1}`));
  const split = splitLetters(isShort ? [] : row.texts('options'));
  if (!isShort && split.options.length === 0) row.fail('options', 'at least one option of a multi-choice question');
  const published = row.reference('answer');
  const letter = published === null || isShort ? published : referenceLetter(published);
  if (published !== null && !isShort && !/\p{L}/u.test(letter ?? ''))
    row.fail('answer', 'an answer that holds a letter');
  if (letter !== null && !isShort && !letters(split.options.length).includes(letter.toUpperCase()))
    row.fail('answer', `a letter from A to ${String.fromCharCode(64 + split.options.length)}`);
  return {
    id,
    group: groupOf?.(id) ?? pictureGroup(images),
    category: row.optionalText('category'),
    images,
    question: row.text('question'),
    options: split.options,
    // A letter with more than brackets around it would not move with its option when options are rotated.
    answers:
      published === null || letter === null ? [] : [isShort || LETTER_ALONE.test(published) ? published : letter],
    fields: {
      questionType,
      ...(row.has('data_source') ? { dataSource: row.text('data_source') } : {}),
      ...(split.letters === null ? {} : { letters: split.letters }),
    },
  };
}
