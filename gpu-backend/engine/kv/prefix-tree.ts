/**
 * Keys and values of prompts that were computed before, found by their longest common beginning: one radix tree per scope.
 * A scope names everything that changes the numbers or may see them (model, adapter, tenant), so nothing is ever shared
 * across scopes. Keys carry their positions already, therefore only a beginning can be reused, never a middle.
 *
 * A node stores the positions of its edge as a range of a span. Splitting a node gives two ranges of one span; the span's
 * bytes count until the last node that uses it is gone. What a `lookup` returned stays valid after an eviction: the tree
 * only lets go of its reference.
 *
 * Order of eviction: `#recency` lists all nodes from the least to the most recently used, and a node is always behind its
 * children in it (a path is touched from its deep end up). So its first entry is always a leaf: eviction takes no search.
 */
import { commonLength, type PromptSymbols, sliceSymbols, symbolAt } from './prompt-symbols.ts';
import type { KvSpan } from './span.ts';

/** Positions from … to-1 of a span. */
export interface PrefixPiece {
  readonly span: KvSpan;
  readonly from: number;
  readonly to: number;
}

export interface PrefixHit {
  /** Positions of the prompt that are stored; 0 = none. */
  readonly length: number;
  /** In order, `length` positions in all. */
  readonly pieces: readonly PrefixPiece[];
}

interface Shared {
  readonly span: KvSpan;
  /** Nodes that use it. */
  nodes: number;
}

interface Root {
  readonly scope: string;
  readonly children: Map<number | string, Node>;
}

interface Node {
  parent: Node | Root;
  /** Key of this node in its parent's `children`. */
  first: number | string;
  label: PromptSymbols;
  readonly children: Map<number | string, Node>;
  readonly shared: Shared;
  from: number;
  to: number;
}

export interface PrefixCounters {
  queries: number;
  /** Positions that were looked for. */
  queryTokens: number;
  /** Queries that found at least one position. */
  hits: number;
  hitTokens: number;
  /** Nodes dropped to make room. */
  evictions: number;
  /** Insertions given up because even an empty tree has no room for them. */
  refused: number;
}

export class PrefixTree {
  readonly budgetBytes: number;
  readonly counters: PrefixCounters = {
    queries: 0,
    queryTokens: 0,
    hits: 0,
    hitTokens: 0,
    evictions: 0,
    refused: 0,
  };
  readonly #roots = new Map<string, Root>();
  readonly #recency = new Set<Node>();
  #bytes = 0;

  constructor(budgetBytes: number) {
    this.budgetBytes = budgetBytes;
  }

  /** Of all span buffers in the tree; at most `budgetBytes` between calls. */
  get bytes(): number {
    return this.#bytes;
  }

  get nodes(): number {
    return this.#recency.size;
  }

  /**
   * The longest stored beginning of a prompt.
   * @param limit positions to look for at most; a caller that needs logits computes at least the last position itself
   */
  lookup(scope: string, symbols: PromptSymbols, limit = symbols.tokenIds.length): PrefixHit {
    const { path, length, partial } = this.#walk(scope, symbols, limit);
    this.#touch(partial === null ? path : [...path, partial.node]);
    const pieces = path.map(({ shared, from, to }) => ({ span: shared.span, from, to }));
    if (partial !== null) {
      const { shared, from } = partial.node;
      pieces.push({ span: shared.span, from, to: from + partial.length });
    }
    this.counters.queries++;
    this.counters.queryTokens += limit;
    if (length > 0) this.counters.hits++;
    this.counters.hitTokens += length;
    return { length, pieces };
  }

  /**
   * Stores the first `length` positions of a prompt.
   * @param save copies positions from … to-1; called at most once, with what is not stored yet
   * @returns positions added
   */
  insert(scope: string, symbols: PromptSymbols, length: number, save: (from: number, to: number) => KvSpan): number {
    if (length < 0 || length > symbols.tokenIds.length)
      throw new Error(`internal: ${length} positions were to be stored of a prompt with ${symbols.tokenIds.length}.`);
    const found = this.#walk(scope, symbols, length);
    this.#touch(found.partial === null ? found.path : [...found.path, found.partial.node]);
    const added = length - found.length;
    if (added === 0) return 0;
    const span = save(found.length, length);
    if (span.tokens !== added)
      throw new Error(`internal: ${added} positions were to be saved, the span has ${span.tokens}.`);
    const path = found.path;
    const kept = new Set(found.partial === null ? path : [...path, found.partial.node]);
    if (!this.#makeRoom(span.bytes, kept)) {
      this.counters.refused++;
      return 0;
    }
    if (found.partial !== null) path.push(this.#split(found.partial.node, found.partial.length));
    const parent = path.at(-1) ?? this.#root(scope);
    const label = sliceSymbols(symbols, found.length, length);
    const first = symbolAt(label, 0);
    const node: Node = { parent, first, label, children: new Map(), shared: { span, nodes: 1 }, from: 0, to: added };
    parent.children.set(first, node);
    this.#bytes += span.bytes;
    this.#touch([...path, node]);
    return added;
  }

  /** Drops everything of a scope, e.g. of an adapter that was unloaded. */
  drop(scope: string): void {
    const root = this.#roots.get(scope);
    if (root === undefined) return;
    const open = [...root.children.values()];
    for (let node = open.pop(); node !== undefined; node = open.pop()) {
      open.push(...node.children.values());
      this.#recency.delete(node);
      this.#release(node.shared);
    }
    this.#roots.delete(scope);
  }

  /** Evicts least recently used leaves until at most `bytes` are held. */
  shrinkTo(bytes: number): void {
    while (this.#bytes > bytes && this.#evictOne(null));
  }

  #root(scope: string): Root {
    const known = this.#roots.get(scope);
    if (known !== undefined) return known;
    const made: Root = { scope, children: new Map() };
    this.#roots.set(scope, made);
    return made;
  }

  /** Follows whole edges (`path`) and at last a part of one (`partial`). */
  #walk(
    scope: string,
    symbols: PromptSymbols,
    limit: number,
  ): {
    readonly path: Node[];
    readonly length: number;
    readonly partial: { readonly node: Node; readonly length: number } | null;
  } {
    const path: Node[] = [];
    let at: Node | Root | undefined = this.#roots.get(scope);
    let length = 0;
    while (at !== undefined && length < limit) {
      const next: Node | undefined = at.children.get(symbolAt(symbols, length));
      if (next === undefined) break;
      const edge = next.to - next.from;
      const common = commonLength(next.label, 0, symbols, length, Math.min(edge, limit - length));
      length += common;
      if (common < edge) return { path, length, partial: { node: next, length: common } };
      path.push(next);
      at = next;
    }
    return { path, length, partial: null };
  }

  /** Cuts a node behind its first `length` positions. Gives the new upper node; the node itself keeps the rest. */
  #split(node: Node, length: number): Node {
    const label = node.label;
    const upper: Node = {
      parent: node.parent,
      first: node.first,
      label: sliceSymbols(label, 0, length),
      children: new Map([[symbolAt(label, length), node]]),
      shared: node.shared,
      from: node.from,
      to: node.from + length,
    };
    node.shared.nodes++;
    upper.parent.children.set(upper.first, upper);
    node.parent = upper;
    node.first = symbolAt(label, length);
    node.label = sliceSymbols(label, length, node.to - node.from);
    node.from += length;
    return upper;
  }

  /** Makes the nodes of a path, given from the top down, the most recently used. */
  #touch(path: readonly Node[]): void {
    for (let index = path.length - 1; index >= 0; index--) {
      this.#recency.delete(path[index]!);
      this.#recency.add(path[index]!);
    }
  }

  /** Evicts until `bytes` more fit. Gives `false`, evicting nothing, when they never do beside the nodes to be kept. */
  #makeRoom(bytes: number, kept: ReadonlySet<Node>): boolean {
    const keptBytes = [...new Set([...kept].map(({ shared }) => shared))].reduce((sum, one) => sum + one.span.bytes, 0);
    if (keptBytes + bytes > this.budgetBytes) return false;
    while (this.#bytes + bytes > this.budgetBytes && this.#evictOne(kept));
    return true;
  }

  #evictOne(kept: ReadonlySet<Node> | null): boolean {
    const oldest = this.#recency.values().next().value;
    if (oldest === undefined || kept?.has(oldest) === true) return false;
    this.#recency.delete(oldest);
    oldest.parent.children.delete(oldest.first);
    if (oldest.parent.children.size === 0 && 'scope' in oldest.parent) this.#roots.delete(oldest.parent.scope);
    this.#release(oldest.shared);
    this.counters.evictions++;
    return true;
  }

  #release(shared: Shared): void {
    shared.nodes--;
    if (shared.nodes === 0) this.#bytes -= shared.span.bytes;
  }
}
