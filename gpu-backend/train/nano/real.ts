import { scatterClaim } from './grammar-scatter.ts';
import { towerClaim } from './grammar-tower.ts';
import { type DecodePng, type NlvrExample, readNlvrBoxes, readNlvrExamples, readNlvrImageSets } from './nlvr.ts';
import type { Claim } from './phrases.ts';
import { Rng } from './random.ts';
import { type Box, readBox } from './scene.ts';

/** A statement that a person wrote, the set it was written about, and how far its label is to be trusted. */
export interface RealStatement {
  statement: string;
  label: boolean;
  boxes: readonly [Box, Box, Box] | readonly Box[];
  /** Loss weight of the label, 0…1. */
  weight: number;
}

/** What the NLVR training split gives to the stream: statements with labels, and sets of boxes without. */
export interface RealData {
  statements: readonly RealStatement[];
  sets: readonly (readonly Box[])[];
}

/** One form for sentences that mean the same to the grammar: lower case, digits, `item`, singular frames, no punctuation. */
function canonical(statement: string): string {
  const digits: Readonly<Record<string, string>> = {
    one: '1',
    two: '2',
    three: '3',
    four: '4',
    five: '5',
    six: '6',
    seven: '7',
  };
  return statement
    .toLowerCase()
    .replace(/[.,]/g, '')
    .split(/\s+/)
    .map((word) => digits[word] ?? word.replace(/^object/, 'item'))
    .join(' ')
    .replace('there are', 'there is')
    .replace(/boxes/g, 'box')
    .trim();
}

/** Statements that the grammar can word, by their canonical form: draws claims until `draws` are made. */
function claimIndex(wanted: ReadonlySet<string>, draws: number): Map<string, Claim> {
  const found = new Map<string, Claim>();
  const rng = new Rng(0xc1a1);
  for (let i = 0; i < draws; i++) {
    const kind = i % 2 === 0 ? 'tower' : 'scatter';
    const claim = kind === 'tower' ? towerClaim(rng) : scatterClaim(rng);
    const key = `${kind}:${canonical(claim.text)}`;
    if (wanted.has(key) && !found.has(key)) found.set(key, claim);
  }
  return found;
}

export interface LabelPolicy {
  /** Weight of a position-prior label that the grammar cannot check. */
  uncheckedWeight: number;
  /** Claims drawn to cover the statements; 0 checks nothing. */
  claimDraws: number;
}

export const defaultLabelPolicy: LabelPolicy = { uncheckedWeight: 0.5, claimDraws: 300_000 };

/**
 * Weighs labels: a published one counts fully; a position-prior one counts fully where the grammar computes the same truth, is dropped where
 * it computes the other, and counts `uncheckedWeight` where the grammar cannot word the statement.
 */
export function weighLabels(
  examples: readonly NlvrExample[],
  boxes: readonly Box[],
  policy: LabelPolicy,
): RealStatement[] {
  const setOf = (example: NlvrExample): Box[] =>
    (example.boxes[0] ?? []).map((number) => {
      const box = boxes[number];
      if (!box) throw new RangeError(`example ${example.id} names box ${number}; the split has ${boxes.length}`);
      return box;
    });
  const kindOf = (set: readonly Box[]) => (set.every((box) => box.kind === 'tower') ? 'tower' : 'scatter');
  const keyOf = (example: NlvrExample, set: readonly Box[]) => `${kindOf(set)}:${canonical(example.statement)}`;
  const wanted = new Set(examples.map((example) => keyOf(example, setOf(example))));
  const claims = claimIndex(wanted, policy.claimDraws);
  return examples.flatMap((example): RealStatement[] => {
    if (example.label === undefined) return [];
    const set = setOf(example);
    const base = { statement: example.statement, label: example.label, boxes: set };
    if (example.labelSource !== 'position-prior') return [{ ...base, weight: 1 }];
    const claim = claims.get(keyOf(example, set));
    if (!claim) return policy.uncheckedWeight > 0 ? [{ ...base, weight: policy.uncheckedWeight }] : [];
    return claim.holds(set) === example.label ? [{ ...base, weight: 1 }] : [];
  });
}

async function readScenes(folder: string, split: string, decodePng: DecodePng): Promise<Box[]> {
  const pngs = await readNlvrBoxes(folder, split);
  const scenes: Box[] = [];
  const batch = 64;
  for (let first = 0; first < pngs.count; first += batch) {
    const numbers = Array.from({ length: Math.min(batch, pngs.count - first) }, (_, i) => first + i);
    scenes.push(...(await Promise.all(numbers.map(async (number) => readBox(await decodePng(pngs.png(number)))))));
  }
  return scenes;
}

/** Reads the `train` and `train-images` splits of an NLVR folder into scenes (about half a minute of decoding). */
export async function loadRealData(
  folder: string,
  decodePng: DecodePng,
  policy = defaultLabelPolicy,
): Promise<RealData> {
  const [examples, imageSets] = await Promise.all([
    readNlvrExamples(folder, 'train'),
    readNlvrImageSets(folder, 'train-images'),
  ]);
  const trainScenes = await readScenes(folder, 'train', decodePng);
  const imageScenes = await readScenes(folder, 'train-images', decodePng);
  return {
    statements: weighLabels(examples, trainScenes, policy),
    sets: imageSets.map(({ boxes }) => boxes.map((number) => imageScenes[number] as Box)),
  };
}
