import {
  type CollatedBatch,
  collate,
  type ImageSource,
  type PackedLayout,
  supervisedWeight,
  type TrainingSample,
} from './batch.ts';

/** Room of one packed row. */
export interface RowBudget {
  /** Decoder positions, and pictures. An example that is larger by itself has a row of its own. */
  readonly tokens: number;
  readonly images: number;
}

/** What an example takes of a row. */
export interface RowCost {
  readonly tokens: number;
  readonly images: number;
}

/**
 * Distributes the examples of one optimizer step over rows by first-fit decreasing under both budgets (at most 11/9 of the
 * fewest rows under one budget; Johnson, 1973). Which examples belong to a step is not changed, so a step's loss and gradient
 * are those of any other distribution. Rows, and examples in a row, come in order of falling length; equal ones in theirs.
 */
export function packRows<T>(samples: readonly T[], costOf: (sample: T) => RowCost, budget: RowBudget): T[][] {
  const sorted = samples
    .map((sample, order) => ({ sample, order, ...costOf(sample) }))
    .sort((a, b) => b.tokens - a.tokens || b.images - a.images || a.order - b.order);
  const rows: { readonly samples: T[]; tokens: number; images: number }[] = [];
  for (const { sample, tokens, images } of sorted) {
    const row = rows.find((r) => r.tokens + tokens <= budget.tokens && r.images + images <= budget.images);
    if (row === undefined) rows.push({ samples: [sample], tokens, images });
    else {
      row.samples.push(sample);
      row.tokens += tokens;
      row.images += images;
    }
  }
  return rows.map(({ samples: own }) => own);
}

/**
 * Cuts examples of falling length into at most `blocks.length` runs that attend together, so that attention computes the fewest
 * scores: a run of n examples, the longest of L positions, computes n · L² of them, (blocks + 1) / (2 blocks) of that in causal
 * blocks. Exact, by dynamic programming.
 * @param lengths falling
 * @param blocks causal blocks of the first group, the second, …
 * @returns number of examples in each run; 0 where a group has none
 */
export function cutGroups(lengths: readonly number[], blocks: readonly number[]): number[] {
  const n = lengths.length;
  const costOf = (from: number, to: number, g: number): number => {
    if (from === to) return 0;
    const count = blocks[g] as number;
    const length = roundUp(lengths[from] as number, count);
    return ((to - from) * length * length * (count + 1)) / (2 * count);
  };
  // best[g][i]: cheapest way to put the first i examples into the first g groups.
  let best = Array.from({ length: n + 1 }, (_, i) => (i === 0 ? 0 : Number.POSITIVE_INFINITY));
  const cuts: number[][] = [];
  for (let g = 0; g < blocks.length; g++) {
    const next: number[] = [];
    const from: number[] = [];
    for (let i = 0; i <= n; i++) {
      let [cost, at] = [Number.POSITIVE_INFINITY, i];
      for (let j = 0; j <= i; j++) {
        const c = (best[j] as number) + costOf(j, i, g);
        if (c < cost) [cost, at] = [c, j];
      }
      next.push(cost);
      from.push(at);
    }
    best = next;
    cuts.push(from);
  }
  const counts = new Array<number>(blocks.length).fill(0);
  let end = n;
  for (let g = blocks.length - 1; g >= 0; g--) {
    const start = (cuts[g] as number[])[end] as number;
    counts[g] = end - start;
    end = start;
  }
  return counts;
}

const roundUp = (x: number, multiple: number): number => Math.ceil(x / multiple) * multiple;

/** Scores that attention computes for a packed row, of one head; without packing it would be its padded length squared times its examples. */
export function attentionScores({ groups }: PackedLayout): number {
  return groups.reduce((sum, { count, length }) => sum + count * length * length, 0);
}

/** Where each row of a packed row attends. @param lengths of its examples, falling */
export function packedLayout(lengths: readonly number[], blocks: readonly number[]): PackedLayout {
  const counts = cutGroups(lengths, blocks);
  const total = lengths.reduce((a, b) => a + b, 0);
  const places = new Int32Array(total);
  const groups: PackedLayout['groups'][number][] = [];
  let [example, row, place] = [0, 0, 0];
  for (const [g, inGroup] of counts.entries()) {
    // A group without examples computes one that nobody reads: sessions have all groups in every run.
    const count = Math.max(1, inGroup);
    const length = roundUp(inGroup === 0 ? 1 : (lengths[example] as number), blocks[g] as number);
    const rows = new Int32Array(count * length);
    for (let e = 0; e < inGroup; e++, example++) {
      const own = lengths[example] as number;
      for (let t = 0; t < own; t++, row++) {
        rows[e * length + t] = row;
        places[row] = place + e * length + t;
      }
    }
    groups.push({ count, length, rows });
    place += count * length;
  }
  return { groups, places };
}

/**
 * One packed row: examples behind one another without padding, positions from zero in each.
 * @param samples of falling length, as packRows gives them
 * @param blocks causal blocks of each attention group
 * @throws Error when no token is supervised
 */
export function collatePacked(
  samples: readonly TrainingSample<ImageSource>[],
  options: { readonly blocks: readonly number[]; readonly totalWeight: number },
): CollatedBatch {
  const lengths = samples.map((s) => s.layout.ids.length);
  const length = lengths.reduce((a, b) => a + b, 0);
  const ids = new Int32Array(length);
  const positions = new Int32Array(length);
  const [imageRows, rows, targets, weights]: [number[], number[], number[], number[]] = [[], [], [], []];
  const images: ImageSource[] = [];
  let start = 0;
  for (const sample of samples) {
    const one = collate([sample], { padId: 0, multiple: 1, totalWeight: options.totalWeight });
    ids.set(one.ids, start);
    positions.set(one.positions, start);
    for (const r of one.imageRows) imageRows.push(start + r);
    for (const r of one.rows) rows.push(start + r);
    targets.push(...one.targets);
    weights.push(...one.weights);
    images.push(...one.images);
    start += one.length;
  }
  return {
    batch: 1,
    length,
    ids,
    positions,
    imageRows: Int32Array.from(imageRows),
    rows: Int32Array.from(rows),
    targets: Int32Array.from(targets),
    weights: Float32Array.from(weights),
    images,
    tokens: length,
    packed: packedLayout(lengths, options.blocks),
  };
}

/** Packed micro-batches of one optimizer step; their weights add up to one. Samples without supervised tokens are left out. */
export function packedBatches(
  samples: readonly TrainingSample<ImageSource>[],
  budget: RowBudget,
  blocks: readonly number[],
): CollatedBatch[] {
  const useful = samples.filter((s) => supervisedWeight([s]) > 0);
  const totalWeight = supervisedWeight(useful);
  const costOf = ({ layout }: TrainingSample<ImageSource>): RowCost => ({
    tokens: layout.ids.length,
    images: layout.images.length,
  });
  return packRows(useful, costOf, budget).map((row) => collatePacked(row, { blocks, totalWeight }));
}
