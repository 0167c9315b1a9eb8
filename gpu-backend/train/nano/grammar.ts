import { randomSet } from './generate.ts';
import { scatterClaim } from './grammar-scatter.ts';
import { towerClaim } from './grammar-tower.ts';
import { scruffy } from './language.ts';
import type { Claim } from './phrases.ts';
import { Rng } from './random.ts';
import type { Box } from './scene.ts';

/** How many fixed sets estimate how often a claim holds by itself. */
const referenceSets = 96;

/**
 * Statements whose truth cannot be told from their words. Each claim is weighed against its own base rate: one that holds in 80 % of sets
 * is kept whenever it is false here and in a quarter of the cases where it is true, so that among the kept uses of the very same sentence
 * half are true. Rates come from fixed reference sets, hence depend on nothing but the claim.
 */
export class BalancedClaims {
  readonly #references = new Map<string, (readonly Box[])[]>();
  readonly #pictures: readonly (readonly Box[])[];
  readonly #rates = new Map<string, number>();

  /** @param pictures real sets; where there are any of the size asked for, rates come from them and from drawn sets alike */
  constructor(pictures: readonly (readonly Box[])[] = []) {
    this.#pictures = pictures;
  }

  #sets(kind: Box['kind'], count: number): (readonly Box[])[] {
    const key = `${kind}${count}`;
    let sets = this.#references.get(key);
    if (!sets) {
      const rng = new Rng(0x5e7, count);
      const real = this.#pictures.filter((set) => set.length === count && set.every((box) => box.kind === kind));
      sets = Array.from({ length: referenceSets }, (_, i) =>
        i % 2 === 0 && real.length > 0 ? rng.pick(real) : randomSet(rng, kind, count),
      );
      this.#references.set(key, sets);
    }
    return sets;
  }

  /** How often the claim holds in sets of this kind and size, kept away from 0 and 1 by Laplace's rule. */
  rate(claim: Claim, kind: Box['kind'], count: number): number {
    const key = `${kind}${count}:${claim.key}`;
    let rate = this.#rates.get(key);
    if (rate === undefined) {
      let held = 0;
      for (const boxes of this.#sets(kind, count)) if (claim.holds(boxes)) held++;
      rate = (held + 1) / (referenceSets + 2);
      this.#rates.set(key, rate);
    }
    return rate;
  }

  /** Whether to use this claim here, given its truth here. */
  accepts(rng: Rng, claim: Claim, kind: Box['kind'], count: number, truth: boolean): boolean {
    const rate = this.rate(claim, kind, count);
    if (rate < 0.03 || rate > 0.97) return false;
    return rng.unit() < Math.min(1, truth ? (1 - rate) / rate : rate / (1 - rate));
  }

  /** A statement about `boxes` in NLVR's language and its truth. */
  statement(rng: Rng, boxes: readonly Box[], make?: (rng: Rng) => Claim): { text: string; truth: boolean } {
    const kind = boxes[0]?.kind ?? 'scatter';
    const draw = make ?? (kind === 'tower' ? towerClaim : scatterClaim);
    for (;;) {
      const claim = draw(rng);
      const truth = claim.holds(boxes);
      if (this.accepts(rng, claim, kind, boxes.length, truth)) return { text: scruffy(rng, claim.text), truth };
    }
  }
}
