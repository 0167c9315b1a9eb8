import { sha256Hex } from '../../io/digest.ts';
import { type NlvrExample, readNlvrBoxes, readNlvrExamples } from '../../io/nlvr.ts';
import type { TaskOptions } from '../options.ts';
import { againstReference } from '../parsers/reference.ts';
import { scoreTrueFalseWord } from '../parsers/true-false.ts';
import { digestRecords } from '../source/collect.ts';
import type { EvalImage, EvalPrompt, EvalRecord, EvalRecords, EvalSource, EvalTask } from '../task.ts';
import { picturesFirst } from './layout.ts';

const CHOICES = ['true', 'false'] as const;
const QUESTION = 'Is this statement about the images true or false? Answer with "true" or "false" alone.';
const MAX_TOKENS = 16;

/**
 * Whether a statement about three boxes of flat shapes is true (Suhr et al. 2017), every example in all published orders of its boxes, as the authors count.
 * Files: SPLIT.jsonl, SPLIT.box.bin and SPLIT.box.idx in one folder; split `dev` by default.
 */
export function nlvrTask({ answerBy = 'likelihood' }: TaskOptions = {}): EvalTask {
  const isCompared = answerBy === 'likelihood';
  return {
    name: 'nlvr',
    title: 'NLVR (Suhr et al. 2017)',
    version: 1,
    aggregate: 'records',
    protocol: {
      prompt: isCompared
        ? 'the boxes left to right as images 1, 2, 3, then the statement as it was written'
        : `the boxes left to right as images 1, 2, 3, then the statement, a new line and: ${QUESTION}`,
      choices: CHOICES,
      parser: 'the choice; of a written answer the one of the words true and false that it holds',
      orders: 'all published ones, each with its own drawing of the boxes',
      score: 'accuracy over all examples and orders',
      maxTokens: MAX_TOKENS,
      answerBy,
    },
    open,
    prompt: (record): EvalPrompt => ({
      parts: picturesFirst(record.question.trim() + (isCompared ? '' : `\n${QUESTION}`), record.images.length),
      images: asDrawn(record.images),
      maxTokens: MAX_TOKENS,
      ...(isCompared ? { choices: record.options } : {}),
    }),
    score: (answer, record) => againstReference(record, (reference) => scoreTrueFalseWord(answer, reference)),
    imageOrders: ({ images, fields }) => permutations(images.length).slice(0, Number(fields.orders)),
  };
}

/**
 * A box of an example. The authors drew the boxes anew for every order, and some came out a few pixels different: which file is shown depends on the order that it is
 * shown in, so that the boxes know each other.
 */
class Box implements EvalImage {
  /** @param drawings of the example's boxes, by published order and place */
  constructor(
    private readonly drawings: readonly (readonly EvalImage[])[],
    readonly place: number,
  ) {}

  get sha256(): string {
    return this.drawn(0).sha256;
  }

  bytes(): Promise<Uint8Array> {
    return this.drawn(0).bytes();
  }

  isOf(other: Box): boolean {
    return this.drawings === other.drawings;
  }

  /** The file at a place of a published order. */
  at(order: number, place: number): EvalImage | undefined {
    return this.drawings[order]?.[place];
  }

  private drawn(order: number): EvalImage {
    const image = this.drawings[order]?.[this.place];
    if (image === undefined) throw new Error(`an NLVR example has no box ${this.place + 1}`);
    return image;
  }
}

/** The files of boxes in the order that they stand in: those of that published order where it is one. */
function asDrawn(images: readonly EvalImage[]): readonly EvalImage[] {
  const [first] = images;
  if (!(first instanceof Box)) return images;
  if (!images.every((image): image is Box => image instanceof Box && image.isOf(first))) return images;
  const places = images.map(({ place }) => place).join();
  const order = permutations(images.length).findIndex((permutation) => permutation.join() === places);
  return images.map((image, place) => first.at(order, place) ?? image);
}

/** In the order of the published rows: 123, 132, 213, 231, 312, 321. */
function permutations(count: number): number[][] {
  const all = (of: readonly number[]): number[][] =>
    of.length <= 1
      ? [[...of]]
      : of.flatMap((one) => all(of.filter((other) => other !== one)).map((rest) => [one, ...rest]));
  return all(Array.from({ length: count }, (_, i) => i));
}

async function open(source: EvalSource): Promise<EvalRecords> {
  const [folder, ...others] = source.paths;
  const split = source.split ?? 'dev';
  if (folder === undefined || others.length > 0)
    throw new Error(
      `expected one folder with ${split}.jsonl, ${split}.box.bin and ${split}.box.idx, received ${source.paths.length} paths`,
    );
  const [boxes, examples] = await Promise.all([readNlvrBoxes(folder, split), readNlvrExamples(folder, split)]);
  if (examples.length === 0) throw new Error(`${folder}/${split}.jsonl: expected at least one example, there is none`);
  const files = new Map<number, EvalImage>();
  const fileOf = (box: number): EvalImage => {
    let image = files.get(box);
    if (image === undefined) {
      const png = boxes.png(box);
      image = { sha256: sha256Hex(png), bytes: async () => png };
      files.set(box, image);
    }
    return image;
  };
  const asked = examples.slice(0, source.limit);
  const records = asked.map((example, i) => recordOf(example, fileOf, `${split}.jsonl, row ${i + 1}`));
  return {
    length: records.length,
    digest: digestRecords(records),
    ...(records.length < examples.length ? { chosen: { how: 'first', of: examples.length } as const } : {}),
    get: async (index) => {
      const record = records[index];
      if (record === undefined) throw new RangeError(`record ${index} does not exist; there are ${records.length}`);
      return record;
    },
    close: async () => {},
  };
}

function recordOf(example: NlvrExample, fileOf: (box: number) => EvalImage, where: string): EvalRecord {
  const count = example.boxes[0]?.length ?? 0;
  const most = permutations(count).length;
  if (example.boxes.length > most || example.boxes.some((order) => order.length !== count))
    throw new Error(`${where}, column \`boxes\`: expected at most ${most} orders of ${count} boxes`);
  const drawings = example.boxes.map((order) => order.map(fileOf));
  return {
    id: example.id,
    group: example.group,
    category: null,
    images: Array.from({ length: count }, (_, place) => new Box(drawings, place)),
    question: example.statement,
    options: CHOICES,
    answers: example.label === undefined ? [] : [String(example.label)],
    // The digests of all orders: records are the same only where every drawing is.
    fields: { orders: drawings.length, drawings: drawings.map((order) => order.map(({ sha256 }) => sha256)) },
  };
}
