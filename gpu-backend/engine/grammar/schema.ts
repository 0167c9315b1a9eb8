/**
 * JSON schema → rules. The texts they describe are a subset of what the schema allows: every one is valid, and a schema whose
 * keywords are not all understood is refused with the path of the keyword, never taken without it. Declared properties come in
 * their declared order; properties that nobody declared come only where `additionalProperties` asks for them.
 */
import { charNfa, exprOf, intersect, multiplesOf } from './char-nfa.ts';
import { type Automaton, alt, type Expr, GrammarError, NOTHING, rule, seq, text } from './expr.ts';
import {
  ANY_INTEGER,
  ANY_NUMBER,
  ARRAY,
  COMMA,
  FORMATS,
  GAP,
  jsonRules,
  listed,
  MAX_STRING_STATES,
  OBJECT,
  otherKey,
  STRING,
  stringOfContent,
  VALUE,
} from './json-text.ts';
import { numberRange, scaled } from './number-range.ts';
import { parseRegex } from './regex.ts';
import { childPath, type JsonType, type Schema, SchemaReader } from './schema-reader.ts';

/** Integers beyond these are not exact in every reader; where a schema has no bound, these hold. */
const LARGEST = 10n ** 15n - 1n;
const MAX_ITEMS = 2_000;
const MAX_LENGTH = 4_096;
const MAX_DIVISOR = 1_000;
/** Digits after the point of a number with bounds. */
const FRACTION_DIGITS = 6;

/** Rules of a schema and the name of the one that takes a whole answer. @throws GrammarError */
export function schemaRules(
  schema: unknown,
  path: string,
): { readonly rules: Map<string, Expr>; readonly root: string } {
  const compiler = new SchemaCompiler(schema, path);
  const root = compiler.rootRule();
  return { rules: compiler.rules, root };
}

class SchemaCompiler {
  readonly rules = jsonRules();
  readonly #reader: SchemaReader;
  /** Canonical text of a schema → its rule: equal schemas share one, and references may go round. */
  readonly #named = new Map<string, string>();
  readonly #open: { readonly name: string; readonly schema: Schema; readonly path: string }[] = [];

  constructor(schema: unknown, path: string) {
    this.#reader = new SchemaReader(schema, path);
  }

  rootRule(): string {
    const root = 'root';
    const { schema, path } = this.#reader.root;
    this.rules.set(root, this.#value(schema, path));
    // Rules are filled one after the other, not one inside the other: depth of nesting costs no stack.
    for (let next = this.#open.pop(); next !== undefined; next = this.#open.pop())
      this.rules.set(next.name, this.#container(next.schema, next.path));
    return root;
  }

  /** What a schema describes at a place where a value stands. */
  #value(schema: unknown, path: string): Expr {
    const branches = this.#reader.branches(schema, path);
    const parts = branches.flatMap(({ schema: branch, path: at }) => this.#branch(branch, at));
    return parts.length === 1 ? parts[0]! : alt(...parts);
  }

  /** One alternative, free of references and combinations. */
  #branch(schema: Schema, path: string): Expr[] {
    if (schema.enum !== undefined) return this.#literals(schema, path);
    const types = this.#reader.typesOf(schema);
    if (types === null) return [rule(VALUE)];
    return types.flatMap((type): Expr[] => {
      switch (type) {
        case 'null':
          return [text('null')];
        case 'boolean':
          return [alt(text('true'), text('false'))];
        case 'integer':
        case 'number':
          return [this.#number(schema, type, path)];
        case 'string':
          return [this.#string(schema, path)];
        case 'array':
        case 'object':
          return [this.#containerRule(schema, type, path)];
        default:
          return type satisfies never;
      }
    });
  }

  /** Containers are rules of their own, since what is in them may lead back to them. */
  #containerRule(schema: Schema, type: 'array' | 'object', path: string): Expr {
    const own = this.#reader.only(schema, type);
    if (Object.keys(own).length === 1) return rule(type === 'array' ? ARRAY : OBJECT);
    const key = JSON.stringify(own);
    let name = this.#named.get(key);
    if (name === undefined) {
      name = `${type} ${this.#named.size}`;
      this.#named.set(key, name);
      this.#open.push({ name, schema: own, path });
    }
    return rule(name);
  }

  #container(schema: Schema, path: string): Expr {
    return schema.type?.[0] === 'array' ? this.#array(schema, path) : this.#object(schema, path);
  }

  #literals(schema: Schema, path: string): Expr[] {
    const beside = Object.keys(schema).find((key) => key !== 'enum' && key !== 'type');
    if (beside !== undefined) throw unsupported(childPath(path, beside), `${beside} beside enum or const`);
    const types = schema.type ?? null;
    const fitting = schema.enum!.filter((value) => types === null || types.some((type) => isOfType(value, type)));
    if (fitting.length === 0) throw impossible(path, 'no value of enum or const has the type asked for');
    return fitting.map((value) => text(JSON.stringify(value)));
  }

  #number(schema: Schema, type: 'integer' | 'number', path: string): Expr {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
    const bounds = [minimum, maximum, exclusiveMinimum, exclusiveMaximum];
    const isWhole = type === 'integer' || multipleOf !== undefined;
    if (bounds.every((bound) => bound === undefined) && multipleOf === undefined)
      return rule(isWhole ? ANY_INTEGER : ANY_NUMBER);
    const F = isWhole ? 0 : FRACTION_DIGITS;
    const largest = isWhole ? LARGEST : (10n ** 9n - 1n) * 10n ** BigInt(F);
    const lows = [-largest];
    if (minimum !== undefined) lows.push(scaled(minimum, F, 'up')!);
    if (exclusiveMinimum !== undefined) lows.push(scaled(exclusiveMinimum, F, 'down')! + 1n);
    const highs = [largest];
    if (maximum !== undefined) highs.push(scaled(maximum, F, 'down')!);
    if (exclusiveMaximum !== undefined) highs.push(scaled(exclusiveMaximum, F, 'up')! - 1n);
    const low = lows.sort(ascending).at(-1)!;
    const high = highs.sort(ascending)[0]!;
    const range = numberRange(low, high, F);
    if (range === null)
      throw impossible(path, `no ${type} within its bounds can be written (at most 15 digits, ${F} after the point)`);
    if (multipleOf === undefined || multipleOf === 1) return range;
    if (!Number.isInteger(multipleOf) || multipleOf > MAX_DIVISOR)
      throw unsupported(
        childPath(path, 'multipleOf'),
        `expected an integer of at most ${MAX_DIVISOR}, got ${multipleOf}`,
      );
    const at = childPath(path, 'multipleOf');
    return exprOf(intersect(charNfa(range, at, MAX_STRING_STATES), multiplesOf(multipleOf), at, MAX_STRING_STATES));
  }

  #string(schema: Schema, path: string): Expr {
    const { minLength = 0, maxLength = null, pattern, format } = schema;
    for (const [key, length] of [
      ['minLength', minLength],
      ['maxLength', maxLength],
    ] as const)
      if (length !== null && length > MAX_LENGTH)
        throw unsupported(childPath(path, key), `expected at most ${MAX_LENGTH}, got ${length}`);
    if (maxLength !== null && minLength > maxLength)
      throw impossible(path, `minLength ${minLength} is above maxLength ${maxLength}`);
    const contents: Expr[] = [];
    for (const one of pattern ?? []) contents.push(parseRegex(one, childPath(path, 'pattern'), false));
    if (format !== undefined) {
      const source = Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined;
      if (source === undefined)
        throw unsupported(
          childPath(path, 'format'),
          `expected one of ${Object.keys(FORMATS).join(', ')}, got ${JSON.stringify(format.slice(0, 40))}`,
        );
      contents.push(parseRegex(source, childPath(path, 'format'), true));
    }
    if (contents.length === 0 && minLength === 0 && maxLength === null) return rule(STRING);
    // A rule of its own: its automaton is built once, wherever else such strings stand.
    const name = `string ${JSON.stringify([minLength, maxLength, pattern, format])}`;
    if (!this.rules.has(name)) this.rules.set(name, stringOfContent(contents, minLength, maxLength, path));
    return rule(name);
  }

  #array(schema: Schema, path: string): Expr {
    const { prefixItems = [], items, minItems = 0, maxItems = null } = schema;
    const most = items === false ? Math.min(prefixItems.length, maxItems ?? Number.POSITIVE_INFINITY) : maxItems;
    if (Math.max(minItems, most ?? 0) > MAX_ITEMS)
      throw unsupported(path, `expected minItems and maxItems of at most ${MAX_ITEMS}`);
    if (most !== null && minItems > most) throw impossible(path, `it needs ${minItems} items and may have ${most}`);
    if (most === 0) return listed('[', NOTHING, ']');
    const first = prefixItems.slice(0, most ?? prefixItems.length);
    const rest = items === false ? null : this.#value(items ?? true, childPath(path, 'items'));
    // Before item i: all of the array's states are "i items are there"; the last one loops where nothing bounds it.
    const edges: Automaton['edges'][number][] = [];
    const item = (index: number): Expr => {
      const own = first[index];
      const value = own === undefined ? rest! : this.#value(own, childPath(path, 'prefixItems', index));
      return index === 0 ? value : seq(COMMA, value);
    };
    const counted = most ?? Math.max(minItems, first.length, 1);
    for (let index = 0; index < counted; index++) edges.push({ from: index, to: index + 1, label: item(index) });
    if (most === null) edges.push({ from: counted, to: counted, label: item(counted) });
    const accepts = new Set(Array.from({ length: counted + 1 }, (_, n) => n).filter((n) => n >= minItems));
    return listed('[', { kind: 'automaton', automaton: { states: counted + 1, accepts, edges } }, ']');
  }

  #object(schema: Schema, path: string): Expr {
    const { properties = {}, required = [], additionalProperties } = schema;
    const declared = Object.entries(properties);
    const names = new Set(Object.keys(properties));
    const more = additionalProperties === undefined && declared.length > 0 ? false : (additionalProperties ?? true);
    for (const name of required) {
      if (names.has(name)) continue;
      if (additionalProperties === false)
        throw impossible(
          childPath(path, 'required'),
          `${JSON.stringify(name)} is required, is not among properties, and additionalProperties is false`,
        );
      names.add(name);
      declared.push([name, additionalProperties ?? true]);
    }
    const { least, most } = this.#counts(schema, path, required.length, declared.length, more !== false);
    const isRequired = new Set(required);
    // A state is (property i comes next, n properties are there), n counted only as far as it matters; then (key, i).
    const n = Math.max(1, least, most ?? 0);
    const state = (i: number, count: number) => i * (n + 1) + Math.min(count, n);
    const last = declared.length;
    let states = (last + 1) * (n + 1);
    if (states > 100_000) throw unsupported(path, 'fewer properties beside minProperties and maxProperties');
    const edges: Automaton['edges'][number][] = [];
    for (const [i, [name, sub]] of declared.entries()) {
      const key = text(`${JSON.stringify(name)}:`);
      const value = seq(key, GAP, this.#value(sub, childPath(path, 'properties', name)));
      for (let count = 0; count <= Math.min(n, i); count++) {
        if (!isRequired.has(name)) edges.push({ from: state(i, count), to: state(i + 1, count), label: NOTHING });
        if (most !== null && count + 1 > most) continue;
        const before = states++;
        edges.push({ from: state(i, count), to: before, label: count === 0 ? NOTHING : COMMA });
        edges.push({ from: before, to: state(i + 1, count + 1), label: value });
      }
    }
    if (more !== false) {
      const key = names.size === 0 ? rule(STRING) : otherKey([...names]);
      const value = seq(key, text(':'), GAP, this.#value(more, childPath(path, 'additionalProperties')));
      for (let count = 0; count <= n; count++)
        if (most === null || count + 1 <= most)
          edges.push({
            from: state(last, count),
            to: state(last, count + 1),
            label: count === 0 ? value : seq(COMMA, value),
          });
    }
    const accepts = new Set<number>();
    for (let count = 0; count <= n; count++)
      if (count >= least && (most === null || count <= most)) accepts.add(state(last, count));
    return listed('{', { kind: 'automaton', automaton: { states, accepts, edges } }, '}');
  }

  /** How many properties there must and may be. Further ones may repeat a key, so they do not help to reach a minimum above one. */
  #counts(
    schema: Schema,
    path: string,
    required: number,
    declared: number,
    hasMore: boolean,
  ): { readonly least: number; readonly most: number | null } {
    const { minProperties = 0 } = schema;
    const maxProperties = schema.maxProperties ?? null;
    if (maxProperties !== null && Math.max(minProperties, required) > maxProperties)
      throw impossible(path, `it needs ${Math.max(minProperties, required)} properties and may have ${maxProperties}`);
    if (minProperties <= Math.max(required, 0)) return { least: 0, most: maxProperties };
    if (minProperties > 1 && (hasMore || minProperties > declared))
      throw unsupported(
        childPath(path, 'minProperties'),
        'expected at most the number of required properties, or of declared ones where additionalProperties is false',
      );
    return { least: minProperties, most: maxProperties };
  }
}

function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function isOfType(value: unknown, type: JsonType): boolean {
  switch (type) {
    case 'null':
      return value === null;
    case 'array':
      return Array.isArray(value);
    case 'object':
      return typeof value === 'object' && value !== null && !Array.isArray(value);
    case 'integer':
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}

function impossible(path: string, why: string): GrammarError {
  return new GrammarError('invalid', path, `no value can fit: ${why}`);
}

function unsupported(path: string, what: string): GrammarError {
  return new GrammarError('unsupported', path, what);
}
