/**
 * Draws among the tokens that a test lets through, asking about a few only: the best ones, in order, until the draw is certain.
 * Knowing all of them (a mask over the vocabulary) is dear where it is not yet known, and the best ones mostly decide.
 */
import { argmax, firstOfRace, mostLikely, race, raceAmong } from './candidates.ts';
import { drawOf } from './random.ts';
import { type SamplingParams, thresholdOf, truncates } from './sampler.ts';

/** Tokens that are asked about before giving up. Measured with 8, 16, 32 and 64: the least for 640 tokens, even for 49,152. */
const LOOK = 16;
/** Kept tokens that a truncated draw may need to see. */
const MOST_KEPT = 128;
/** Of the sum of all weights: sums within it may be told apart differently in another order. */
const DOUBT = 1e-9;

/**
 * The token that `choose` draws among all that `allows` is true for, or `null` when the best ones do not tell.
 * @param allows asked at most once per token and draw, best tokens first
 */
export function chooseWhere(
  logits_V: Float32Array,
  params: SamplingParams,
  counter: number,
  allows: (id: number) => boolean,
): number | null {
  const { temperature, seed } = params;
  const draw = drawOf(seed, counter);
  if (temperature > 0 && truncates(params)) {
    const kept = keptOf(logits_V, params, allows);
    return kept === null ? null : raceAmong(logits_V, temperature, draw, kept);
  }
  const first = temperature === 0 ? argmax(logits_V) : race(logits_V, temperature, draw);
  if (!Number.isFinite(logits_V[first])) return null;
  if (allows(first)) return first;
  const next = temperature === 0 ? mostLikely(logits_V, LOOK) : firstOfRace(logits_V, temperature, draw, LOOK);
  for (const id of next) {
    if (logits_V[id] === Number.NEGATIVE_INFINITY) return null;
    if (id !== first && allows(id)) return id;
  }
  return null;
}

/** The allowed tokens that top-k, top-p and min-p keep, best first; `null` when it takes more of them to know. */
function keptOf(
  logits_V: Float32Array,
  params: SamplingParams,
  allows: (id: number) => boolean,
): readonly number[] | null {
  const { temperature, topK, topP, minP = 0 } = params;
  const most = logits_V[argmax(logits_V)] ?? Number.NaN;
  if (topK > MOST_KEPT || !Number.isFinite(most)) return null;
  const kept: number[] = [];
  let threshold = Number.NEGATIVE_INFINITY;
  /** Weights relative to the likeliest token, allowed or not: of those kept, and of those not asked about. */
  let mass = 0;
  let unknown = 0;
  const weightOf = (id: number) => Math.exp((logits_V[id]! - most) / temperature);
  if (topP < 1) for (let id = 0; id < logits_V.length; id++) unknown += weightOf(id);
  const doubt = DOUBT * unknown;
  for (const id of mostLikely(logits_V, topK > 0 ? topK + LOOK : MOST_KEPT)) {
    const value = logits_V[id]!;
    if (topP >= 1 && minP > 0 && value < threshold) return kept;
    if (topP < 1) unknown -= weightOf(id);
    if (value === Number.NEGATIVE_INFINITY) return null;
    if (!allows(id)) continue;
    if (kept.length === 0) threshold = thresholdOf(value, params);
    if (topP < 1) mass += weightOf(id);
    kept.push(id);
    const isTopK = kept.length === topK;
    if (topP >= 1) {
      if (isTopK) return minP > 0 ? kept.filter((one) => logits_V[one]! >= threshold) : kept;
      continue;
    }
    // The sum of all allowed weights lies between those met and those met and not asked about.
    const largest = isTopK ? mass : mass + Math.max(unknown, 0);
    if (mass < topP * largest + doubt && !isTopK) continue;
    const count = nucleusOf(kept.map(weightOf), topP * mass, topP * largest, doubt, isTopK);
    if (count !== null) {
      const best = logits_V[kept[0]!]!;
      return kept.slice(0, count).filter((one) => Math.exp(-((best - logits_V[one]!) / temperature)) >= minP);
    }
    if (isTopK) return null;
  }
  return null;
}

/** How many of the weights, in order, reach a mass that lies between `least` and `most`; `null` where that is in doubt. */
function nucleusOf(
  weights: readonly number[],
  least: number,
  most: number,
  doubt: number,
  isAll: boolean,
): number | null {
  let sum = 0;
  for (const [index, weight] of weights.entries()) {
    // The first stays, also at top-p 0.
    if (index > 0 && sum >= least - doubt) return sum >= most + doubt ? index : null;
    sum += weight;
  }
  return isAll || sum >= most + doubt ? weights.length : null;
}
