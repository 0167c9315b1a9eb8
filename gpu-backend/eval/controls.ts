import { RandomStream } from './statistics/random.ts';
import type {
  EvalControl,
  EvalImage,
  EvalPrompt,
  EvalRecord,
  EvalRecords,
  EvalTask,
  EvalVariant,
  Json,
} from './task.ts';

/** Orders of more than four pictures are sampled: so many at most are asked, whatever was asked for. */
export const MAX_IMAGE_ORDERS = 24;

/** Controls that can be asked for beside the questions themselves. */
export const evalControls = [
  'text-only',
  'blank',
  'shuffled',
  'leave-one-out',
] as const satisfies readonly EvalControl[];

/** In which ways every question of a run is asked. */
export interface VariantsAsked {
  /**
   * `protocol`: as the benchmark asks (most: as published; NLVR: all six orders). `all`: every order of the pictures, 24 at most. A number: so many orders, the
   * published one among them; where the protocol has orders of its own, the first so many of those.
   */
  readonly orders: 'protocol' | 'all' | number;
  /** Each question once for every rotation of its options. */
  readonly rotate: boolean;
  readonly controls: readonly (typeof evalControls)[number][];
}

export const asPublished: VariantsAsked = { orders: 'protocol', rotate: false, controls: [] };

/** What a run's hash covers of this: `EvalSpec.variants`. `protocolOrders` says whether the asked orders are the benchmark's own, so that all of them count. */
export function variantsJson(
  asked: VariantsAsked,
  task: Pick<EvalTask, 'imageOrders'>,
): { readonly [key: string]: Json } {
  return {
    orders: asked.orders,
    rotate: asked.rotate,
    controls: evalControls.filter((control) => asked.controls.includes(control)),
    protocolOrders: task.imageOrders !== undefined,
  };
}

/**
 * The ways in which one record is asked, in a fixed order and without doubles: orders of its pictures; rotations of its options; then the controls.
 * Blanked and absent pictures have no order, so that they are asked once; strangers' pictures are asked in the orders of the protocol; pictures are left out in
 * the published order.
 */
export function variantsFor(
  record: EvalRecord,
  asked: VariantsAsked,
  task: Pick<EvalTask, 'imageOrders'>,
): EvalVariant[] {
  const protocol = task.imageOrders?.(record);
  const orders = imageOrdersOf(record, asked.orders, protocol);
  const variants: EvalVariant[] = orders.map((order) => ({ control: 'none', ...orderOf(order) }));
  if (asked.rotate) {
    for (let by = 1; by < record.options.length; by++) variants.push({ control: 'none', optionRotation: by });
  }
  if (record.images.length === 0) return variants;
  if (asked.controls.includes('text-only')) variants.push({ control: 'text-only' });
  if (asked.controls.includes('blank')) variants.push({ control: 'blank' });
  if (asked.controls.includes('shuffled')) {
    const shown = protocol === undefined ? [identity(record.images.length)] : orders;
    for (const order of shown) variants.push({ control: 'shuffled', ...orderOf(order) });
  }
  if (asked.controls.includes('leave-one-out')) {
    for (const leftOut of record.images.keys()) variants.push({ control: 'leave-one-out', leftOut });
  }
  return variants;
}

/** A variant as a short word, the same for equal variants: what names an item beside its record. */
export function variantKey({ control, leftOut, imageOrder, optionRotation }: EvalVariant): string {
  const parts: string[] = [control];
  if (leftOut !== undefined) parts.push(`without ${leftOut + 1}`);
  if (imageOrder !== undefined) parts.push(`order ${imageOrder.map((i) => i + 1).join(' ')}`);
  if (optionRotation !== undefined && optionRotation !== 0) parts.push(`rotated ${optionRotation}`);
  return parts.join(', ');
}

/**
 * A record asked in one way: the record that the answer is scored against, and the prompt.
 * @param stranger whose pictures are shown, for `shuffled` (see Strangers)
 * @throws Error when the variant does not fit the record, a picture cannot be read, or the task's prompt does not follow its options
 */
export async function applyVariant(
  task: Pick<EvalTask, 'name' | 'prompt'>,
  record: EvalRecord,
  variant: EvalVariant,
  stranger?: EvalRecord,
): Promise<{ readonly record: EvalRecord; readonly prompt: EvalPrompt }> {
  let shown: readonly EvalImage[] = record.images;
  if (variant.control === 'blank') shown = await Promise.all(shown.map((image) => blankOf(image, record.id)));
  if (variant.control === 'leave-one-out') {
    const leftOut = variant.leftOut ?? -1;
    const image = shown[leftOut];
    if (image === undefined)
      throw new Error(`record ${record.id}: picture ${leftOut + 1} of ${shown.length} cannot be left out`);
    shown = shown.with(leftOut, await blankOf(image, record.id));
  }
  if (variant.control === 'shuffled') {
    if (stranger === undefined || stranger.images.length < shown.length)
      throw new Error(
        `record ${record.id}: \`shuffled\` needs a stranger with ${shown.length} pictures, got ${stranger?.images.length ?? 'none'}`,
      );
    shown = stranger.images.slice(0, shown.length);
  }
  if (variant.imageOrder !== undefined) shown = inOrder(shown, variant.imageOrder, record.id);
  const rotation = variant.optionRotation ?? 0;
  const changed: EvalRecord = { ...rotateOptions(record, rotation), images: shown };
  const prompt = task.prompt(changed);
  if (rotation !== 0 && samePromptText(prompt, task.prompt(record)))
    throw new Error(
      `task ${task.name}: the prompt of record ${record.id} is the same with its options rotated, so that rotation would measure nothing; leave rotation out`,
    );
  return { record: changed, prompt: variant.control === 'text-only' ? withoutPictures(prompt) : prompt };
}

/**
 * The options moved on by so many places, the last ones coming in at the front, and the reference moved with them. A reference that is a letter (`B`, `(B)`,
 * `B.`) within range is taken as the place of the right option; every other one as its text, which stays.
 */
export function rotateOptions(record: EvalRecord, by: number): EvalRecord {
  const count = record.options.length;
  if (by === 0) return record;
  if (!Number.isInteger(by) || by < 0 || by >= count)
    throw new Error(`record ${record.id}: cannot rotate ${count} options by ${by}`);
  const options = record.options.map((_, place) => record.options[(place - by + count) % count] as string);
  return { ...record, options, answers: record.answers.map((answer) => moveLetter(answer, by, count)) };
}

function moveLetter(answer: string, by: number, count: number): string {
  const match = /^(\s*[([]?\s*)([A-Za-z])(\s*[)\].:]?\s*)$/u.exec(answer);
  const [, before = '', letter = '', after = ''] = match ?? [];
  const place = letter.toUpperCase().charCodeAt(0) - 65;
  if (match === null || place >= count) return answer;
  const moved = String.fromCharCode(65 + ((place + by) % count));
  return `${before}${letter === letter.toUpperCase() ? moved : moved.toLowerCase()}${after}`;
}

/**
 * For each record another one whose pictures are shown in place of its own, for `shuffled`: of another group, with as many pictures or more and none in common,
 * the first such from half of the list away on. Fixed by the records and the seed, so that two runs shuffle alike.
 */
export class Strangers {
  readonly #facts: readonly { group: string; images: readonly string[] }[];
  readonly #seed: number;

  private constructor(facts: readonly { group: string; images: readonly string[] }[], seed: number) {
    this.#facts = facts;
    this.#seed = seed;
  }

  /** Reads the first `count` records once; of each only its group and the digests of its pictures stay. */
  static async read(records: Pick<EvalRecords, 'get'>, count: number, seed = 0): Promise<Strangers> {
    const facts: { group: string; images: readonly string[] }[] = [];
    for (let i = 0; i < count; i++) {
      const { group, images } = await records.get(i);
      facts.push({ group, images: images.map(({ sha256 }) => sha256) });
    }
    return new Strangers(facts, seed);
  }

  /** @throws Error when there is none: a control that cannot be built must not look like a result */
  indexFor(index: number): number {
    const count = this.#facts.length;
    const own = this.#facts[index];
    if (own === undefined) throw new RangeError(`Strangers: expected a record below ${count}, received ${index}`);
    for (let step = 0; step < count; step++) {
      const at = (index + Math.floor(count / 2) + this.#seed + step) % count;
      const other = this.#facts[at];
      if (other === undefined || other.group === own.group || other.images.length < own.images.length) continue;
      if (!other.images.slice(0, own.images.length).some((image) => own.images.includes(image))) return at;
    }
    throw new Error(
      `control \`shuffled\`: no record of another group than ${own.group} has ${own.images.length} pictures or more that are not its own; ask more records, or leave \`shuffled\` out`,
    );
  }
}

function imageOrdersOf(
  record: EvalRecord,
  asked: VariantsAsked['orders'],
  protocol: readonly (readonly number[])[] | undefined,
): readonly (readonly number[])[] {
  if (protocol !== undefined) return typeof asked === 'number' ? protocol.slice(0, Math.max(1, asked)) : protocol;
  const own = identity(record.images.length);
  if (asked === 'protocol' || asked === 1 || own.length < 2) return [own];
  const most = asked === 'all' ? MAX_IMAGE_ORDERS : Math.min(asked, MAX_IMAGE_ORDERS);
  const random = new RandomStream(`orders of ${record.id}`);
  if (own.length <= 4) {
    const [first, ...others] = permutations(own);
    // Fewer than all are drawn by the record's id, so that over many records each order is asked about as often.
    const drawn = others.length < most ? others : random.shuffle(others).slice(0, most - 1);
    return [first as readonly number[], ...drawn];
  }
  const seen = new Map([[own.join(), own]]);
  while (seen.size < most) {
    const order = random.shuffle(own);
    seen.set(order.join(), order);
  }
  return [...seen.values()];
}

/** In lexicographic order, the given one first. */
function permutations(of: readonly number[]): number[][] {
  if (of.length <= 1) return [[...of]];
  return of.flatMap((first, i) => permutations(of.toSpliced(i, 1)).map((rest) => [first, ...rest]));
}

function identity(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

function orderOf(order: readonly number[]): { imageOrder?: readonly number[] } {
  return order.every((picture, place) => picture === place) ? {} : { imageOrder: order };
}

function inOrder(images: readonly EvalImage[], order: readonly number[], id: string): EvalImage[] {
  const fits = order.length === images.length && new Set(order).size === order.length;
  return order.map((from) => {
    const image = images[from];
    if (!fits || image === undefined)
      throw new Error(`record ${id}: [${order.join(', ')}] is no order of its ${images.length} pictures`);
    return image;
  });
}

function withoutPictures(prompt: EvalPrompt): EvalPrompt {
  const { earlier } = prompt;
  return {
    ...prompt,
    ...(earlier === undefined ? {} : { earlier: earlier.map(({ role, parts }) => ({ role, parts: wordsOf(parts) })) }),
    parts: wordsOf(prompt.parts),
    images: [],
  };
}

/** Endpoints want something in every turn. */
function wordsOf(parts: EvalPrompt['parts']): EvalPrompt['parts'] {
  const words = parts.filter((part) => typeof part === 'string');
  return words.length === 0 ? [''] : words;
}

function samePromptText(a: EvalPrompt, b: EvalPrompt): boolean {
  return (
    JSON.stringify([a.earlier, a.parts, a.choices ?? []]) === JSON.stringify([b.earlier, b.parts, b.choices ?? []])
  );
}

/** Loaded where it is needed: everything else here works without a codec. */
async function blankOf(image: EvalImage, recordId: string): Promise<EvalImage> {
  const { blankImage } = await import('./blank-image.ts');
  return blankImage(image, `record ${recordId}`);
}
