/**
 * Reads JSON schemas: checks each keyword it meets, follows `$ref`, multiplies out `anyOf`, `oneOf` and `allOf` into plain
 * alternatives. What is not understood is refused with its path. Work is bounded whatever is sent.
 */
import { describe } from '../../../shared/contract/errors.ts';
import { GrammarError } from './expr.ts';
import { checkKeyword, KEYWORDS } from './schema-keywords.ts';
import { areDisjoint, merge } from './schema-merge.ts';

export type JsonType = 'null' | 'boolean' | 'integer' | 'number' | 'string' | 'array' | 'object';

/** A schema without references and combinations. `const` is read as an `enum` of one; sub-schemas are as they were sent. */
export interface Schema {
  readonly type?: readonly JsonType[];
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, unknown>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: unknown;
  readonly minProperties?: number;
  readonly maxProperties?: number;
  readonly items?: unknown;
  readonly prefixItems?: readonly unknown[];
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: readonly string[];
  readonly format?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly multipleOf?: number;
}

export interface Branch {
  readonly schema: Schema;
  readonly path: string;
}

const MAX_SCHEMA_CHARS = 200_000;
const MAX_DEPTH = 64;
const MAX_BRANCHES = 500;
const MAX_READS = 20_000;

/** @throws GrammarError for schemas that are nested too deeply or too long to be read at all */
export function checkSize(schema: unknown, path: string): void {
  if (depthOf(schema) > MAX_DEPTH)
    throw new GrammarError('invalid', path, `expected a schema nested at most ${MAX_DEPTH} deep`);
  const size = JSON.stringify(schema).length;
  if (size > MAX_SCHEMA_CHARS)
    throw new GrammarError('invalid', path, `expected at most ${MAX_SCHEMA_CHARS} characters of schema, got ${size}`);
}

export class SchemaReader {
  readonly root: { readonly schema: unknown; readonly path: string };
  #reads = 0;

  /** @param path names the schema in messages */
  constructor(schema: unknown, path: string) {
    this.root = { schema, path };
  }

  /** The plain alternatives that a schema stands for; none where nothing can fit. */
  branches(schema: unknown, path: string): readonly Branch[] {
    return this.#resolve(schema, path, []);
  }

  /** Types that values may have; `null` = any. Without `type`, keywords that speak of one type choose it. */
  typesOf(schema: Schema): readonly JsonType[] | null {
    if (schema.type !== undefined) return schema.type;
    const spoken = Object.keys(schema).flatMap((key) => KEYWORDS[key]?.speaksOf ?? []);
    return spoken.length === 0 ? null : [...new Set(spoken)];
  }

  /** The part of a schema that speaks of one type, `type` among it. */
  only(schema: Schema, type: 'array' | 'object'): Schema {
    const own = Object.entries(schema).filter(([key]) => KEYWORDS[key]?.speaksOf === type);
    return { type: [type], ...Object.fromEntries(own) };
  }

  #resolve(schema: unknown, path: string, trail: readonly string[]): readonly Branch[] {
    if (++this.#reads > MAX_READS)
      throw new GrammarError('invalid', path, 'too complex: its references fan out too far');
    if (schema === true) return [{ schema: {}, path }];
    if (schema === false) return [];
    if (typeof schema !== 'object' || schema === null || Array.isArray(schema))
      throw new GrammarError('invalid', path, `expected a schema (an object, true or false), got ${describe(schema)}`);
    const fields = schema as Readonly<Record<string, unknown>>;
    let result: readonly Branch[] = [{ schema: this.#plain(fields, path), path }];
    const both = (others: readonly Branch[]) => {
      result = result.flatMap((a) =>
        others.flatMap((b) => {
          const merged = merge(a.schema, b.schema, path);
          return merged === null
            ? []
            : [{ schema: merged, path: Object.keys(a.schema).length === 0 ? b.path : a.path }];
        }),
      );
      if (result.length > MAX_BRANCHES)
        throw new GrammarError('invalid', path, `too complex: more than ${MAX_BRANCHES} alternatives`);
    };
    if (fields.$ref !== undefined) {
      const reference = fields.$ref as string;
      if (trail.includes(reference))
        throw new GrammarError('invalid', childPath(path, '$ref'), `${reference} refers to itself without end`);
      const target = this.#lookUp(reference, childPath(path, '$ref'));
      both(this.#resolve(target.schema, target.path, [...trail, reference]));
    }
    const parts = (key: 'allOf' | 'anyOf' | 'oneOf') =>
      ((fields[key] ?? []) as readonly unknown[]).map((part, i) => this.#resolve(part, childPath(path, key, i), trail));
    for (const part of parts('allOf')) both(part);
    if (fields.anyOf !== undefined) both(parts('anyOf').flat());
    if (fields.oneOf !== undefined) {
      const options = parts('oneOf');
      for (const [i, a] of options.entries())
        for (const b of options.slice(i + 1))
          if (a.some((x) => b.some((y) => !areDisjoint(x.schema, y.schema))))
            throw new GrammarError(
              'unsupported',
              childPath(path, 'oneOf'),
              'expected alternatives that cannot fit together (other types, other constants of a required property); use anyOf',
            );
      both(options.flat());
    }
    return result;
  }

  /** The keywords of one schema object that are no references or combinations. */
  #plain(fields: Readonly<Record<string, unknown>>, path: string): Schema {
    const plain: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(fields)) {
      if (value === undefined) continue;
      const keyword = Object.hasOwn(KEYWORDS, key) ? KEYWORDS[key]! : null;
      const at = childPath(path, key);
      if (keyword === null)
        throw new GrammarError('unsupported', at, `the keyword ${JSON.stringify(key.slice(0, 60))} is not supported`);
      checkKeyword(key, keyword, value, at);
      if (keyword.use !== 'constraint') continue;
      if (key === 'type') plain.type = [value].flat();
      else if (key === 'pattern') plain.pattern = [value];
      else if (key !== 'const') plain[key] = value;
    }
    if (fields.const !== undefined) {
      const own: Schema = { enum: [fields.const] };
      return merge(plain as Schema, own, path) ?? { enum: [] };
    }
    return plain as Schema;
  }

  #lookUp(reference: string, path: string): { readonly schema: unknown; readonly path: string } {
    if (reference !== '#' && !reference.startsWith('#/'))
      throw new GrammarError(
        'unsupported',
        path,
        `expected a reference within the schema (#/…), got ${describe(reference)}`,
      );
    let { schema, path: at } = this.root;
    for (const part of reference.split('/').slice(1)) {
      const key = unescaped(part);
      const inner = typeof schema === 'object' && schema !== null && Object.hasOwn(schema, key);
      if (!inner) throw new GrammarError('invalid', path, `expected something at ${reference}, there is nothing`);
      schema = (schema as Record<string, unknown>)[key];
      at = childPath(at, key);
    }
    return { schema, path: at };
  }
}

/** `a.b[0]`, with names that are no identifiers in brackets. */
export function childPath(path: string, ...keys: readonly (string | number)[]): string {
  return keys.reduce<string>((at, key) => {
    if (typeof key === 'number') return `${at}[${key}]`;
    return /^[$\w]{1,60}$/.test(key) ? `${at}.${key}` : `${at}[${JSON.stringify(key.slice(0, 60))}]`;
  }, path);
}

/** A part of a JSON pointer in a URL fragment. */
function unescaped(part: string): string {
  let plain = part;
  try {
    plain = decodeURIComponent(part);
  } catch {
    // Not percent-encoded: it stands as written.
  }
  return plain.replaceAll('~1', '/').replaceAll('~0', '~');
}

/** Levels of nesting, counted without recursion; stops above the limit. */
function depthOf(value: unknown): number {
  let level: unknown[] = [value];
  let depth = 0;
  while (level.length > 0 && depth <= MAX_DEPTH * 2) {
    level = level.flatMap((one) => (typeof one === 'object' && one !== null ? Object.values(one) : []));
    depth++;
  }
  return Math.ceil(depth / 2);
}
