/** How alike two texts are, 0 … 1, by formulas that are published to the last tie: what each is equal to stands at its function. */
import type { SimilarityMetric } from '../../../shared/contract/evals.ts';

/** Longer texts are refused: the comparison takes time with the product of both lengths. */
export const MAX_COMPARED_CHARS = 65_536;

/**
 * @throws RangeError for a text above `MAX_COMPARED_CHARS`
 */
export function similarity(metric: SimilarityMetric, text: string, reference: string): number {
  const longest = Math.max(text.length, reference.length);
  if (longest > MAX_COMPARED_CHARS)
    throw new RangeError(`${metric}: expected texts of at most ${MAX_COMPARED_CHARS} characters, received ${longest}`);
  switch (metric) {
    case 'fuzzy_match':
      return fuzzyMatch(text, reference);
    case 'bleu':
      return bleu(text, reference);
    case 'gleu':
      return gleu(text, reference);
    case 'rouge_l':
      return rougeL(text, reference);
    default:
      return rougeN(text, reference, Number(metric.slice('rouge_'.length)));
  }
}

/** Normalised Indel similarity over code points, 2·LCS / (|a| + |b|): RapidFuzz's `fuzz.ratio` / 100. Two empty texts are equal. */
export function fuzzyMatch(text: string, reference: string): number {
  const [a, b] = [[...text], [...reference]];
  return a.length + b.length === 0 ? 1 : (2 * longestCommon(a, b)) / (a.length + b.length);
}

/**
 * BLEU-4 of one sentence as sacreBLEU has it (`sentence_bleu`, tokens by `13a`, case kept, exponential smoothing, effective order), / 100.
 */
export function bleu(text: string, reference: string): number {
  const [hypothesis, target] = [tokens13a(text), tokens13a(reference)];
  if (hypothesis.length === 0 || target.length === 0) return 0;
  let logSum = 0;
  let order = 0;
  let smoothing = 1;
  let matched = 0;
  for (let n = 1; n <= 4; n++) {
    const total = Math.max(0, hypothesis.length - n + 1);
    if (total === 0) break;
    const hits = overlap(counts(hypothesis, n), counts(target, n));
    matched += hits;
    order = n;
    if (hits === 0) smoothing *= 2;
    logSum += Math.log((hits === 0 ? 1 / smoothing : hits) / total);
  }
  // Where nothing is shared, smoothing must not make something of it.
  if (matched === 0) return 0;
  const brevity = hypothesis.length < target.length ? Math.exp(1 - target.length / hypothesis.length) : 1;
  return brevity * Math.exp(logSum / order);
}

/** GLEU of Wu et al. 2016 as NLTK has it (`sentence_gleu`, tokens by white space, 1 to 4 words): the smaller of precision and recall of all n-grams together. */
export function gleu(text: string, reference: string): number {
  const [hypothesis, target] = [words(text), words(reference)];
  let hits = 0;
  let all = 0;
  let wanted = 0;
  for (let n = 1; n <= 4; n++) {
    hits += overlap(counts(hypothesis, n), counts(target, n));
    all += Math.max(0, hypothesis.length - n + 1);
    wanted += Math.max(0, target.length - n + 1);
  }
  const most = Math.max(all, wanted);
  return most === 0 ? 0 : hits / most;
}

/** ROUGE-N, F1, as Google's `rouge_score` without stemming: lower case, words are runs of letters and digits (here of any script). */
export function rougeN(text: string, reference: string, n: number): number {
  const [hypothesis, target] = [rougeWords(text), rougeWords(reference)];
  const hits = overlap(counts(hypothesis, n), counts(target, n));
  return f1(hits, Math.max(0, hypothesis.length - n + 1), Math.max(0, target.length - n + 1));
}

/** ROUGE-L, F1 over the longest common subsequence of words; words as in `rougeN`. */
export function rougeL(text: string, reference: string): number {
  const [hypothesis, target] = [rougeWords(text), rougeWords(reference)];
  return f1(longestCommon(hypothesis, target), hypothesis.length, target.length);
}

function f1(hits: number, received: number, wanted: number): number {
  return hits === 0 ? 0 : (2 * hits) / (received + wanted);
}

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '');
const rougeWords = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}\p{M}]+/gu) ?? [];

/** mteval-v13a's tokens, as sacreBLEU reads them. */
function tokens13a(text: string): string[] {
  const plain = text
    .replaceAll('<skipped>', '')
    .replaceAll('-\n', '')
    .replaceAll('\n', ' ')
    .replaceAll('&quot;', '"')
    .replaceAll('&amp;', '&')
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>');
  return words(
    ` ${plain} `
      .replace(/([{-~[-` -&(-+:-@/])/g, ' $1 ')
      .replace(/([^0-9])([.,])/g, '$1 $2 ')
      .replace(/([.,])([^0-9])/g, ' $1 $2')
      .replace(/([0-9])(-)/g, '$1 $2 '),
  );
}

function counts(tokens: readonly string[], n: number): Map<string, number> {
  const found = new Map<string, number>();
  for (let i = 0; i + n <= tokens.length; i++) {
    const gram = tokens.slice(i, i + n).join('\u0000');
    found.set(gram, (found.get(gram) ?? 0) + 1);
  }
  return found;
}

function overlap(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): number {
  let shared = 0;
  for (const [gram, count] of a) shared += Math.min(count, b.get(gram) ?? 0);
  return shared;
}

/** Length of the longest common subsequence, bit-parallel (Hyyrö 2004): a zero bit of a row marks an element of `a` that is part of it. */
function longestCommon(a: readonly string[], b: readonly string[]): number {
  const width = Math.ceil(a.length / 32);
  const masks = new Map<string, Uint32Array>();
  a.forEach((symbol, i) => {
    let mask = masks.get(symbol);
    if (mask === undefined) {
      mask = new Uint32Array(width);
      masks.set(symbol, mask);
    }
    mask[i >>> 5] = (mask[i >>> 5] as number) | (1 << (i & 31));
  });
  const row = new Uint32Array(width).fill(0xffffffff);
  for (const symbol of b) {
    const mask = masks.get(symbol);
    if (mask === undefined) continue;
    let carry = 0;
    for (let word = 0; word < width; word++) {
      const value = row[word] as number;
      const common = (value & (mask[word] as number)) >>> 0;
      const sum = value + common + carry;
      carry = sum > 0xffffffff ? 1 : 0;
      row[word] = (sum | (value & ~common)) >>> 0;
    }
  }
  let length = 0;
  for (let i = 0; i < a.length; i++) if ((((row[i >>> 5] as number) >>> (i & 31)) & 1) === 0) length++;
  return length;
}
