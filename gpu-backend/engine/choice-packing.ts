/**
 * Which sequences run together when answers are compared, and how: what sequences share from their beginning on (the head of a
 * conversation, the first picture of several orders, the question before several answers) is computed once.
 */

/** Tokens that stand for one picture, and what they are replaced by. */
export interface PackedImage {
  readonly tokenStart: number;
  readonly tokenCount: number;
  /** [tokenCount, hidden]. The same picture is the same object. */
  readonly features: Float32Array;
}

/** A sequence to run. */
export interface ChoiceSequence {
  readonly ids: readonly number[];
  readonly images: readonly PackedImage[];
  /** At position `at`, the probability of token `id` to come next is wanted. */
  readonly reads: readonly { readonly at: number; readonly id: number }[];
}

/** E sequences of L places over T distinct rows; Q places are read of each. */
export interface ChoiceBatch {
  readonly sequences: number;
  readonly length: number;
  readonly reads: number;
  readonly ids_T: Int32Array;
  /** The row at each place; row 0 where a sequence is filled up on the right, where causal attention never looks. */
  readonly rows_EL: Int32Array;
  /** A place of each row. */
  readonly places_T: Int32Array;
  /** Positions read of each sequence; 0 where it is read at fewer. */
  readonly readAt_EQ: Int32Array;
  /** What is wanted, sequence by sequence in the order of its reads: which of the E·Q, and the token that comes next. */
  readonly wantedAt_R: Int32Array;
  readonly wantedIds_R: Int32Array;
  /** Rows of picture slots, and their features. */
  readonly imageRows_I: Int32Array;
  readonly features_IH: Float32Array;
}

/**
 * Rows of one run, and places of its attention: the widest activations of nano, 448 values a row, then stay in a core's own cache (1.6 of 2 MiB).
 * Twice as many were a fifth slower.
 */
const ROWS_PER_RUN = 896;
const PLACES_PER_RUN = 1280;

/** A row, and the rows that follow it in some sequence. Pictures are told apart by their first slot. */
interface Branch {
  readonly row: number;
  readonly next: Map<number | Float32Array, Branch>;
}

/** Rows that a run has so far. */
class RowTree {
  readonly #root = new Map<number | Float32Array, Branch>();
  rows = 0;

  /** Rows of a sequence, new ones behind those that are known. */
  add({ ids, images }: ChoiceSequence): { readonly rows: Int32Array; readonly firstNew: number } {
    const starts = new Map(images.map((image) => [image.tokenStart, image.features]));
    const rows = new Int32Array(ids.length);
    let level = this.#root;
    let firstNew = ids.length;
    for (const [at, id] of ids.entries()) {
      const key = starts.get(at) ?? id;
      let branch = level.get(key);
      if (branch === undefined) {
        branch = { row: this.rows++, next: new Map() };
        level.set(key, branch);
        firstNew = Math.min(firstNew, at);
      }
      rows[at] = branch.row;
      level = branch.next;
    }
    return { rows, firstNew };
  }
}

/** How many tokens two sequences share from their beginning on. */
function shared(a: ChoiceSequence, b: ChoiceSequence): number {
  const starts = (s: ChoiceSequence) => new Map(s.images.map((image) => [image.tokenStart, image.features]));
  const [ofA, ofB] = [starts(a), starts(b)];
  const length = Math.min(a.ids.length, b.ids.length);
  for (let at = 0; at < length; at++) if (a.ids[at] !== b.ids[at] || ofA.get(at) !== ofB.get(at)) return at;
  return length;
}

/** Sequences that share a good part stay together; otherwise those of about the same length do, since attention fills them up. */
export function packChoices<T extends ChoiceSequence>(sequences: readonly T[]): T[][] {
  const families: T[][] = [];
  for (const sequence of byBeginning(sequences)) {
    const family = families.at(-1);
    if (family !== undefined && shared(family.at(-1)!, sequence) * 5 >= sequence.ids.length) family.push(sequence);
    else families.push([sequence]);
  }
  const lengthOf = (family: readonly T[]) => Math.max(...family.map(({ ids }) => ids.length));
  const batches: T[][] = [];
  let tree = new RowTree();
  let length = 0;
  for (const family of families.sort((a, b) => lengthOf(a) - lengthOf(b)))
    for (const sequence of family) {
      const batch = batches.at(-1);
      const longest = Math.max(length, sequence.ids.length);
      const isFull =
        batch === undefined ||
        tree.rows + sequence.ids.length > ROWS_PER_RUN ||
        (batch.length + 1) * longest > PLACES_PER_RUN;
      if (isFull) {
        batches.push([sequence]);
        tree = new RowTree();
        length = sequence.ids.length;
      } else {
        batch.push(sequence);
        length = longest;
      }
      tree.add(sequence);
    }
  return batches;
}

/** In an order in which sequences that begin alike are neighbours. */
function byBeginning<T extends ChoiceSequence>(sequences: readonly T[]): T[] {
  const numbers = new Map<Float32Array, number>();
  const numberOf = (features: Float32Array): number => {
    const known = numbers.get(features) ?? numbers.size;
    numbers.set(features, known);
    return known;
  };
  // Pictures sort behind all tokens, by their first appearance.
  const keyed = sequences.map((sequence) => {
    const keys = Float64Array.from(sequence.ids);
    for (const { tokenStart, features } of sequence.images) keys[tokenStart] = 2 ** 32 + numberOf(features);
    return { sequence, keys };
  });
  keyed.sort(({ keys: a }, { keys: b }) => {
    const length = Math.min(a.length, b.length);
    for (let at = 0; at < length; at++) if (a[at] !== b[at]) return a[at]! - b[at]!;
    return a.length - b.length;
  });
  return keyed.map(({ sequence }) => sequence);
}

/** @param hidden values of a feature row */
export function batchOf(sequences: readonly ChoiceSequence[], hidden: number): ChoiceBatch {
  const length = Math.max(...sequences.map(({ ids }) => ids.length));
  const positions = sequences.map(({ reads }) => [...new Set(reads.map(({ at }) => at))]);
  const reads = Math.max(...positions.map((of) => of.length));
  const rows_EL = new Int32Array(sequences.length * length);
  const readAt_EQ = new Int32Array(sequences.length * reads);
  const ids: number[] = [];
  const places: number[] = [];
  const wantedAt: number[] = [];
  const wantedIds: number[] = [];
  const imageRows: number[] = [];
  const features: Float32Array[] = [];
  const tree = new RowTree();
  for (const [e, sequence] of sequences.entries()) {
    const { rows, firstNew } = tree.add(sequence);
    rows_EL.set(rows, e * length);
    for (let at = firstNew; at < rows.length; at++) {
      ids.push(sequence.ids[at]!);
      places.push(e * length + at);
    }
    for (const image of sequence.images) {
      if (image.tokenStart < firstNew) continue;
      features.push(image.features);
      for (let t = 0; t < image.tokenCount; t++) imageRows.push(rows[image.tokenStart + t]!);
    }
    readAt_EQ.set(positions[e]!, e * reads);
    for (const { at, id } of sequence.reads) {
      wantedAt.push(e * reads + positions[e]!.indexOf(at));
      wantedIds.push(id);
    }
  }
  return {
    sequences: sequences.length,
    length,
    reads,
    ids_T: Int32Array.from(ids),
    rows_EL,
    places_T: Int32Array.from(places),
    readAt_EQ,
    wantedAt_R: Int32Array.from(wantedAt),
    wantedIds_R: Int32Array.from(wantedIds),
    imageRows_I: Int32Array.from(imageRows),
    features_IH: concatenate(features, imageRows.length * hidden),
  };
}

function concatenate(pieces: readonly Float32Array[], length: number): Float32Array {
  const all = new Float32Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** A batch without shared rows, as graphs take it that know of none: every place is a row. */
export function unshared(
  batch: ChoiceBatch,
  hidden: number,
): Pick<ChoiceBatch, 'imageRows_I' | 'features_IH'> & {
  readonly ids_EL: Int32Array;
  readonly readRows_EQ: Int32Array;
} {
  const { length, reads, rows_EL, ids_T, readAt_EQ, features_IH } = batch;
  const slotOf = new Map(Array.from(batch.imageRows_I, (row, slot) => [row, slot] as const));
  const imageRows: number[] = [];
  const features: Float32Array[] = [];
  for (const [place, row] of rows_EL.entries()) {
    const slot = slotOf.get(row);
    if (slot === undefined) continue;
    imageRows.push(place);
    features.push(features_IH.subarray(slot * hidden, (slot + 1) * hidden));
  }
  return {
    ids_EL: rows_EL.map((row) => ids_T[row]!),
    readRows_EQ: readAt_EQ.map((at, i) => Math.floor(i / reads) * length + at),
    imageRows_I: Int32Array.from(imageRows),
    features_IH: concatenate(features, imageRows.length * hidden),
  };
}
