import type { DataName, DatasetProblem } from '../../../shared/contract/datasets.ts';
import { errorMessage } from '../../../shared/contract/facts.ts';
import { LayoutError, type Message } from '../../text/layout.ts';
import { contentHashOf, type DataExample } from '../data/example.ts';
import type { ImageReader } from '../data/import.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import { DigestIndex } from './digest-index.ts';
import type { Findings } from './findings.ts';
import { layoutOf } from './front.ts';
import { listed, type OptionsCheck, quoted } from './options-check.ts';
import type { PictureLook } from './pictures.ts';
import { subsetName } from './summary.ts';
import { bandsOf, shinglesOf } from './text-signature.ts';

/** Conversations by their content, over all lists: which example had it first. */
export class Contents {
  readonly digests = new DigestIndex();
  readonly firstOf: number[] = [];
}

/** Looks at the examples of one list as they are read. */
export class ExampleCheck {
  /**
   * @param list number of the list among all
   * @param options with which what is held out will be asked
   */
  constructor(
    private readonly findings: Findings,
    private readonly contents: Contents,
    private readonly data: FineTuneData,
    private readonly name: DataName,
    private readonly list: number,
    private readonly options: OptionsCheck | null = null,
  ) {}

  /** @returns false where it cannot be trained on */
  async read(example: DataExample, reader: ImageReader): Promise<boolean> {
    const { data, name, list, findings } = this;
    const { table, pictures: check } = findings;
    const subset = data.spec.files.length > 1 ? subsetName(data, example.file) : null;
    const say = (
      severity: DatasetProblem['severity'],
      code: string,
      message: string,
      where: Partial<Pick<DatasetProblem, 'message_index' | 'part_index' | 'param'>> = {},
    ): void => {
      const place = { message_index: null, part_index: null, param: null, ...where };
      findings.note({ severity, code, message, data: name, subset, line: example.line, ...place }, example.file);
    };
    const places = placesOf(example.messages);
    let isGood = true;
    const fail: typeof say = (...about) => {
      isGood = false;
      say(...about);
    };
    const looks = await Promise.all(
      example.images.map((reference) => check.look(reference, (own) => reader.readImage(own))),
    );
    for (const [i, look] of looks.entries()) {
      const where: Partial<Place> = places.get(i) ?? {};
      if (look.fault !== null) fail('error', look.fault.code, named(look.fault.message, where.param), where);
      for (const { code, message } of look.odd) say('warning', code, `${where.param ?? 'image'}: ${message}.`, where);
    }
    const length = measure(findings, example, looks, fail);
    if (name === 'held_out') {
      const answer = checkAnswer(findings, example, length?.tokens ?? 0, fail);
      const missing = answer === null ? null : this.options?.look(answer, this.place(example));
      const param = `messages[${example.messages.length - 1}]`;
      if (missing != null)
        say(
          'warning',
          'answer_not_among_options',
          `${param}: expected one of the options, ${listed(missing)}, received ${quoted(answer ?? '')}: no answer can be right.`,
          { param },
        );
    }
    if (length === null || !isGood) return false;
    const pictures = looks.map(({ picture }) => picture ?? 0);
    const number = table.push({
      list,
      file: example.file,
      line: example.line,
      ...length,
      turns: example.messages.length,
      skill: example.skill,
      pictures,
      bands: bandsOf(shinglesOf(example.messages)),
    });
    this.findCopies(number, example, pictures, say);
    await findings.problems.settle();
    return true;
  }

  private place({ line, file }: DataExample): string {
    const { data } = this;
    return data.spec.files.length > 1 ? `${line} of ${subsetName(data, file)}` : String(line);
  }

  /** Exact copies, and what of the validation data is in the training data too. */
  private findCopies(
    number: number,
    example: DataExample,
    pictures: readonly number[],
    say: (severity: 'warning', code: string, message: string, where?: { param: string }) => void,
  ): void {
    const { findings, name } = this;
    const { table, counts } = findings;
    // Pictures count by their pixels: the same one may be embedded here and uploaded there.
    const hash = contentHashOf(
      example.messages,
      pictures.map((picture) => `pixels ${picture}`),
    );
    const { number: content, isNew } = this.contents.digests.add(hash);
    if (isNew) this.contents.firstOf[content] = number;
    else {
      const first = this.contents.firstOf[content] ?? 0;
      const isOwn = table.list(first) === table.list(number);
      if (isOwn) {
        findings.copies.add(number);
        counts.exact++;
        say('warning', 'duplicate', `The same example as line ${findings.lineOf(first)}.`);
      } else if (typeof name !== 'number' && typeof findings.nameOf(table.list(first)) === 'number') {
        findings.copies.add(number);
        if (name === 'validation') counts.leakedExamples++;
        else counts.heldOutExamples++;
        say('warning', 'leaked_example', `The same example is in the training data, line ${findings.lineOf(first)}.`);
      }
    }
    for (const [i, picture] of pictures.entries()) {
      const others = name === 'validation' ? findings.inValidation : findings.inHeldOut;
      if (typeof name === 'number') findings.inTraining.add(picture);
      else if (!others.has(picture)) {
        others.set(picture, number);
        if (!findings.inTraining.has(picture)) continue;
        if (name === 'validation') counts.leakedImages++;
        else counts.heldOutImages++;
        say('warning', 'leaked_image', `Image ${i + 1} is in the training data too, pixel for pixel.`);
      }
    }
  }
}

/** @returns token counts, or null where the example cannot be laid out or does not fit the context */
function measure(
  findings: Findings,
  example: DataExample,
  looks: readonly PictureLook[],
  fail: (severity: 'error', code: string, message: string, where?: { param: string }) => void,
): { tokens: number; supervisedTokens: number; imageTokens: number } | null {
  const { front, pictures } = findings;
  const { slots, contextTokens } = front;
  // Without its pictures' sizes nothing can be said about its length.
  if (slots.fixed === null && looks.some(({ picture }) => picture === null)) return null;
  try {
    const layout = layoutOf(front, example.messages, (image) => pictures.sizeOf(looks[image]?.picture ?? 0));
    const imageTokens = layout.images.reduce((sum, { tokenCount }) => sum + tokenCount, 0);
    const tokens = layout.ids.length;
    let supervisedTokens = 0;
    for (const weight of layout.weights) if (weight > 0) supervisedTokens++;
    if (tokens > contextTokens)
      fail(
        'error',
        'context_length_exceeded',
        errorMessage('messages', {
          expected: `at most the ${contextTokens} tokens of the model's context`,
          received: `${tokens} tokens (${imageTokens} of them for ${layout.images.length} images)`,
          remedy: 'Shorten or divide the example; nothing is cut off.',
        }),
        { param: 'messages' },
      );
    if (supervisedTokens === 0)
      fail(
        'error',
        'nothing_to_learn',
        errorMessage('messages', {
          expected: 'at least one assistant turn whose weight is not 0',
          received: 'nothing that is learned',
        }),
        { param: 'messages' },
      );
    return { tokens, supervisedTokens, imageTokens };
  } catch (error) {
    if (!(error instanceof LayoutError)) throw error;
    fail('error', 'invalid_value', `${error.path}: ${error.message}.`, { param: error.path });
    return null;
  }
}

/** Room that an answer has beyond the reference, tokens; as `server/evaluate-held-out.ts` asks. */
const ANSWER_SLACK_TOKENS = 8;

/** A held-out example is asked, so that its end must be an answer, with room for one that is a little longer. @returns the answer, where there is one */
function checkAnswer(
  { front }: Findings,
  { messages }: DataExample,
  tokens: number,
  fail: (severity: 'error', code: string, message: string, where?: { param: string }) => void,
): string | null {
  const last = messages.at(-1);
  const param = `messages[${messages.length - 1}]`;
  const text = last?.parts.map((part) => (part.type === 'text' ? part.text : '')).join('') ?? '';
  if (last?.role !== 'assistant' || text.trim() === '') {
    fail(
      'error',
      'invalid_value',
      errorMessage(param, {
        expected: 'an assistant turn with a text at the end, the answer that counts',
        received: last?.role === 'assistant' ? 'one without a text' : `one of the ${last?.role ?? 'nobody'}`,
      }),
      { param },
    );
    return null;
  }
  if (tokens <= front.contextTokens && tokens + ANSWER_SLACK_TOKENS > front.contextTokens)
    fail(
      'error',
      'context_length_exceeded',
      errorMessage('messages', {
        expected: `at most ${front.contextTokens - ANSWER_SLACK_TOKENS} tokens, so that ${ANSWER_SLACK_TOKENS} are left for another answer`,
        received: `${tokens} tokens`,
      }),
      { param: 'messages' },
    );
  return text;
}

type Place = { message_index: number; part_index: number; param: string };

/** Where each picture stands, by its place among the example's. */
function placesOf(messages: readonly Message[]): Map<number, Place> {
  const places = new Map<number, Place>();
  for (const [m, { parts }] of messages.entries())
    for (const [p, part] of parts.entries())
      if (part.type === 'image')
        places.set(part.image, { message_index: m, part_index: p, param: `messages[${m}].content[${p}]` });
  return places;
}

/** A fault's sentence with the place in front, whoever wrote it. */
function named(message: string, param = 'image'): string {
  return message.startsWith('image: ') ? `${param}: ${message.slice('image: '.length)}` : `${param}: ${message}`;
}
