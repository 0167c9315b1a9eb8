import { type DecodePng, type NlvrExample, readNlvrBoxes, readNlvrExamples, readNlvrImageSets } from '../../io/nlvr.ts';
import { parseStatement } from './parse.ts';
import { PeoplesClaims } from './people.ts';
import { type Box, readBox } from './scene.ts';

/** A statement that a person wrote, the set it was written about, and how far its label is to be trusted. */
export interface RealStatement {
  statement: string;
  label: boolean;
  boxes: readonly [Box, Box, Box] | readonly Box[];
  /** Loss weight of the label, 0…1. */
  weight: number;
}

/** What the NLVR training split gives, as plain data that can be sent to another thread. */
export interface RealParts {
  statements: readonly RealStatement[];
  sets: readonly (readonly Box[])[];
  /** All training sentences, with the kind of boxes they were written about. */
  sentences: readonly { readonly statement: string; readonly kind: Box['kind'] }[];
}

/** What the NLVR training split gives to the stream: statements with labels, and sets of boxes without. */
export interface RealData extends RealParts {
  /** All training sentences that can be read. */
  people: PeoplesClaims;
}

/** What can be sent to another thread, which makes `realDataOf` of it. */
export const partsOf = ({ statements, sets, sentences }: RealData): RealParts => ({ statements, sets, sentences });

export const realDataOf = ({ statements, sets, sentences }: RealParts): RealData => ({
  statements,
  sets,
  sentences,
  people: new PeoplesClaims(sentences),
});

export interface LabelPolicy {
  /** Weight of a position-prior label whose statement cannot be read. */
  uncheckedWeight: number;
  /** Whether labels are compared with what the parser computes; without, a position-prior label counts `uncheckedWeight`. */
  checks: boolean;
}

export const defaultLabelPolicy: LabelPolicy = { uncheckedWeight: 0.5, checks: true };

const kindOf = (set: readonly Box[]): Box['kind'] => (set.every((box) => box.kind === 'tower') ? 'tower' : 'scatter');

/**
 * Weighs labels: where the statement can be read (parse.ts) and holds as the label says, it counts fully; where it is read otherwise,
 * the label is dropped, published or not (on dev, published labels and readings agree in 98.4 %, on train in 91.9 %: its labels are noisier);
 * where it cannot be read, a published label counts fully and a position-prior one `uncheckedWeight`.
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
  return examples.flatMap((example): RealStatement[] => {
    if (example.label === undefined) return [];
    const set = setOf(example);
    const base = { statement: example.statement, label: example.label, boxes: set };
    const claim = policy.checks ? parseStatement(example.statement, kindOf(set)) : undefined;
    if (claim) return claim.holds(set) === example.label ? [{ ...base, weight: 1 }] : [];
    const weight = example.labelSource === 'position-prior' ? policy.uncheckedWeight : 1;
    return weight > 0 ? [{ ...base, weight }] : [];
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
  return realDataOf({
    sentences: examples.map(({ statement, boxes: [order = []] }) => ({
      statement,
      kind: kindOf(order.map((number) => trainScenes[number] as Box)),
    })),
    statements: weighLabels(examples, trainScenes, policy),
    sets: imageSets.map(({ boxes }) => boxes.map((number) => imageScenes[number] as Box)),
  });
}
