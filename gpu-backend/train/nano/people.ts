import type { BalancedClaims } from './grammar.ts';
import { numberText, scruffy } from './language.ts';
import { parseStatement } from './parse.ts';
import type { Claim } from './phrases.ts';
import type { Rng } from './random.ts';
import { type Box, colors, shapes } from './scene.ts';

type Kind = Box['kind'];

const numberWords: readonly string[] = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven'];
const numberPattern = /\b(one|two|three|four|five|six|seven|[1-7])\b/gi;

const numberOf = (word: string): number => {
  const at = numberWords.indexOf(word.toLowerCase());
  return at < 0 ? Number(word) : at;
};

/**
 * The sentence with other colors and shapes in it, one for another throughout, and in part with another number or numbers
 * written the other way. `grey square` is a box and stays.
 */
export function reworded(rng: Rng, text: string): string {
  const [newColors, newShapes] = [rng.shuffle(colors), rng.shuffle(shapes)];
  const other = (from: readonly string[], to: readonly string[], word: string): string =>
    to[from.indexOf(word.toLowerCase())] ?? word;
  let changed = text
    .replace(/\b(black|blue|yellow)\b/gi, (word) => other(colors, newColors, word))
    .replace(/(?<!\bgr[ea]y )\b(circle|square|triangle)/gi, (word) => other(shapes, newShapes, word));
  const count = [...changed.matchAll(numberPattern)].length;
  const moved = count > 0 && rng.chance(0.4) ? rng.int(0, count - 1) : -1;
  let at = 0;
  changed = changed.replace(numberPattern, (word) => {
    const n = numberOf(word);
    const shifted = at++ === moved ? Math.min(7, Math.max(1, n + rng.pick([-1, 1, 1, 2]))) : n;
    if (shifted === n && rng.chance(0.7)) return word;
    return numberText(rng, shifted);
  });
  return rng.chance(0.25)
    ? scruffy(
        rng,
        changed
          .toLowerCase()
          .replace(/\s*\.\s*$/, '')
          .trim(),
      )
    : changed;
}

/** Sentences that people wrote and the parser reads, askable about any set of three boxes with a computed truth. */
export class PeoplesClaims {
  readonly #texts: Readonly<Record<Kind, readonly string[]>>;
  readonly #read = new Map<string, Claim | null>();

  /** @param statements sentences with the kind of boxes they were written about; those that cannot be read are left out */
  constructor(statements: Iterable<{ readonly statement: string; readonly kind: Kind }>) {
    const texts: Record<Kind, Set<string>> = { tower: new Set(), scatter: new Set() };
    for (const { statement, kind } of statements)
      if (this.#claim(statement.trim(), kind) !== null) texts[kind].add(statement.trim());
    this.#texts = { tower: [...texts.tower], scatter: [...texts.scatter] };
  }

  get count(): number {
    return this.#texts.tower.length + this.#texts.scatter.length;
  }

  #claim(text: string, kind: Kind): Claim | null {
    const key = `${kind}:${text}`;
    let claim = this.#read.get(key);
    if (claim === undefined) {
      claim = parseStatement(text, kind) ?? null;
      this.#read.set(key, claim);
    }
    return claim;
  }

  /**
   * A sentence about these boxes, as often true as false over all sets it is asked about; about a third of them as they were written.
   * @returns undefined where there is none for this kind
   */
  statement(rng: Rng, boxes: readonly Box[], balance: BalancedClaims): { text: string; truth: boolean } | undefined {
    const kind = boxes.every((box) => box.kind === 'tower') ? 'tower' : 'scatter';
    const texts = this.#texts[kind];
    for (let attempt = 0; attempt < 60 && texts.length > 0; attempt++) {
      const original = rng.pick(texts);
      const text = rng.chance(0.3) ? original : reworded(rng, original);
      const claim = this.#claim(text, kind);
      if (claim === null) continue;
      const truth = claim.holds(boxes);
      if (balance.accepts(rng, claim, kind, boxes.length, truth)) return { text, truth };
    }
    return undefined;
  }
}
