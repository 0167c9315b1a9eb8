/** From what a request asks its answer to look like to data that the engine's sampler can follow, compiled once and kept. */
import { createHash } from 'node:crypto';
import { alt, type Expr, GrammarError, text } from './expr.ts';
import { buildGrammar, type Grammar } from './grammar.ts';
import { jsonRules, OBJECT } from './json-text.ts';
import { parseRegex } from './regex.ts';
import { schemaRules } from './schema.ts';
import { checkSize } from './schema-reader.ts';
import type { TokenTrie } from './token-trie.ts';
import { vocabularyOf, type Writer } from './vocabulary.ts';

export type ConstraintSpec =
  | { readonly type: 'json_object' }
  | { readonly type: 'json_schema'; readonly schema: unknown }
  | { readonly type: 'regex'; readonly regex: string }
  | { readonly type: 'choice'; readonly choices: readonly string[] };

/** A compiled constraint. Plain data over shared memory: it crosses to the engine's thread without being copied. */
export interface Constraint {
  /** Equal keys mean equal constraints over equal vocabularies. */
  readonly key: string;
  readonly grammar: Grammar;
  readonly trie: TokenTrie;
  /** Decoding takes one space off the front of the answer. */
  readonly skipsFirstSpace: boolean;
}

/** Compiled constraints kept, by number and by states in all (some 40 bytes each). */
const MAX_KEPT = 128;
const MAX_KEPT_STATES = 1_000_000;

export class ConstraintCompiler {
  /** By key, the one used last at the end. */
  readonly #kept = new Map<string, Constraint>();

  /**
   * @param path names the constraint in messages, e.g. `response_format.json_schema.schema`
   * @throws GrammarError when it cannot be followed, with the path of what is wrong
   */
  compile(spec: ConstraintSpec, writer: Writer, path: string): Constraint {
    if (spec.type === 'json_schema') checkSize(spec.schema, path);
    const vocabulary = vocabularyOf(writer);
    const key = `${vocabulary.digest} ${createHash('sha256').update(JSON.stringify(spec)).digest('hex')}`;
    let constraint = this.#kept.get(key);
    this.#kept.delete(key);
    if (constraint === undefined) {
      const { rules, root } = rulesOf(spec, path);
      const grammar = buildGrammar(rules, root, vocabulary.hasByte, path);
      constraint = { key, grammar, trie: vocabulary.trie, skipsFirstSpace: vocabulary.skipsFirstSpace };
    }
    this.#kept.set(key, constraint);
    const statesKept = () => [...this.#kept.values()].reduce((sum, { grammar }) => sum + grammar.accepts.length, 0);
    while (this.#kept.size > 1 && (this.#kept.size > MAX_KEPT || statesKept() > MAX_KEPT_STATES))
      this.#kept.delete(this.#kept.keys().next().value!);
    return constraint;
  }
}

function rulesOf(
  spec: ConstraintSpec,
  path: string,
): { readonly rules: ReadonlyMap<string, Expr>; readonly root: string } {
  switch (spec.type) {
    case 'json_object':
      return { rules: jsonRules(), root: OBJECT };
    case 'json_schema':
      return schemaRules(spec.schema, path);
    case 'regex':
      return { rules: new Map([['root', parseRegex(spec.regex, path, true)]]), root: 'root' };
    case 'choice': {
      const empty = spec.choices.indexOf('');
      if (empty >= 0 || spec.choices.length === 0)
        throw new GrammarError('invalid', empty < 0 ? path : `${path}[${empty}]`, 'expected at least one character');
      return { rules: new Map([['root', alt(...spec.choices.map(text))]]), root: 'root' };
    }
    default:
      return spec satisfies never;
  }
}
