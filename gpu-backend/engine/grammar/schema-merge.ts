/** Two plain schemas that must hold together, as one; and whether two can hold together at all. */
import { GrammarError } from './expr.ts';
import type { JsonType, Schema } from './schema-reader.ts';

/**
 * The schema of values that fit both; `null` where it is plain to see that none does.
 * @throws GrammarError for combinations that are not built, naming `path`
 */
export function merge(a: Schema, b: Schema, path: string): Schema | null {
  const type = both(a.type, b.type, commonTypes);
  if (type?.length === 0) return null;
  const values = both(a.enum, b.enum, (x, y) => {
    const known = new Set(y.map(canonical));
    return x.filter((value) => known.has(canonical(value)));
  });
  if (values?.length === 0) return null;
  const merged: Record<string, unknown> = {
    type,
    enum: values,
    properties: both(a.properties, b.properties, mergeProperties),
    required: both(a.required, b.required, (x, y) => [...new Set([...x, ...y])]),
    additionalProperties: additional(a, b, path),
    minProperties: both(a.minProperties, b.minProperties, Math.max),
    maxProperties: both(a.maxProperties, b.maxProperties, Math.min),
    ...items(a, b, path),
    minItems: both(a.minItems, b.minItems, Math.max),
    maxItems: both(a.maxItems, b.maxItems, Math.min),
    minLength: both(a.minLength, b.minLength, Math.max),
    maxLength: both(a.maxLength, b.maxLength, Math.min),
    pattern: both(a.pattern, b.pattern, (x, y) => [...new Set([...x, ...y])]),
    format: both(a.format, b.format, (x, y) => same(x, y, 'format', path)),
    minimum: both(a.minimum, b.minimum, Math.max),
    maximum: both(a.maximum, b.maximum, Math.min),
    exclusiveMinimum: both(a.exclusiveMinimum, b.exclusiveMinimum, Math.max),
    exclusiveMaximum: both(a.exclusiveMaximum, b.exclusiveMaximum, Math.min),
    multipleOf: both(a.multipleOf, b.multipleOf, (x, y) => same(x, y, 'multipleOf', path)),
  };
  return Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== undefined)) as Schema;
}

function both<T>(a: T | undefined, b: T | undefined, join: (a: T, b: T) => T): T | undefined {
  return a === undefined ? b : b === undefined ? a : join(a, b);
}

function commonTypes(a: readonly JsonType[], b: readonly JsonType[]): readonly JsonType[] {
  const fits = (type: JsonType, types: readonly JsonType[]) =>
    types.includes(type) || (type === 'integer' && types.includes('number'));
  return [...new Set([...a.filter((type) => fits(type, b)), ...b.filter((type) => fits(type, a))])];
}

function mergeProperties(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>) {
  const merged = new Map(Object.entries(a));
  for (const [name, schema] of Object.entries(b)) {
    const other = merged.get(name);
    merged.set(name, other === undefined ? schema : { allOf: [other, schema] });
  }
  return Object.fromEntries(merged);
}

/** `additionalProperties` speaks of the names its own schema does not declare, so the other schema must not declare more. */
function additional(a: Schema, b: Schema, path: string): unknown {
  const closes = (schema: Schema) => schema.additionalProperties !== undefined && schema.additionalProperties !== true;
  const covers = (x: Schema, y: Schema) =>
    Object.keys(y.properties ?? {}).every((name) => Object.hasOwn(x.properties ?? {}, name));
  if ((closes(a) && !covers(a, b)) || (closes(b) && !covers(b, a)))
    throw new GrammarError(
      'unsupported',
      path,
      'additionalProperties beside a combined schema with further properties; declare the properties in one schema',
    );
  if (closes(a) && closes(b)) return { allOf: [a.additionalProperties, b.additionalProperties] };
  return closes(a) ? a.additionalProperties : (b.additionalProperties ?? a.additionalProperties);
}

function items(a: Schema, b: Schema, path: string): Pick<Schema, 'items' | 'prefixItems'> {
  const speaks = (schema: Schema) => schema.items !== undefined || schema.prefixItems !== undefined;
  if ((a.prefixItems !== undefined && speaks(b)) || (b.prefixItems !== undefined && speaks(a)))
    throw new GrammarError('unsupported', path, 'prefixItems in schemas that are combined');
  return {
    items: both(a.items, b.items, (x, y) => ({ allOf: [x, y] })),
    ...(a.prefixItems === undefined && b.prefixItems === undefined
      ? {}
      : { prefixItems: (a.prefixItems ?? b.prefixItems)! }),
  };
}

function same<T>(a: T, b: T, key: string, path: string): T {
  if (a === b) return a;
  throw new GrammarError('unsupported', path, `two different values of ${key} that hold together, ${a} and ${b}`);
}

/** True where no value can fit both, as far as that is plain to see. */
export function areDisjoint(a: Schema, b: Schema): boolean {
  const [typesA, typesB] = [typesIn(a), typesIn(b)];
  if (typesA !== null && typesB !== null && commonTypes(typesA, typesB).length === 0) return true;
  if (a.enum !== undefined && b.enum !== undefined) return areApart(a.enum, b.enum);
  const areObjects = [typesA, typesB].every((types) => types?.length === 1 && types[0] === 'object');
  if (!areObjects) return false;
  const needsUnknown = (x: Schema, y: Schema) =>
    x.additionalProperties === false && (y.required ?? []).some((name) => !Object.hasOwn(x.properties ?? {}, name));
  if (needsUnknown(a, b) || needsUnknown(b, a)) return true;
  return (a.required ?? []).some((name) => {
    if (!(b.required ?? []).includes(name)) return false;
    const [x, y] = [constantsOf(a.properties?.[name]), constantsOf(b.properties?.[name])];
    return x !== null && y !== null && areApart(x, y);
  });
}

function typesIn(schema: Schema): readonly JsonType[] | null {
  if (schema.type !== undefined) return schema.type;
  if (schema.enum === undefined) return null;
  return schema.enum.map((value): JsonType => {
    if (value === null) return 'null';
    if (Array.isArray(value)) return 'array';
    return typeof value as 'boolean' | 'number' | 'string' | 'object';
  });
}

function constantsOf(schema: unknown): readonly unknown[] | null {
  if (typeof schema !== 'object' || schema === null) return null;
  if ('const' in schema) return [schema.const];
  return 'enum' in schema && Array.isArray(schema.enum) ? schema.enum : null;
}

function areApart(a: readonly unknown[], b: readonly unknown[]): boolean {
  const known = new Set(b.map(canonical));
  return a.every((value) => !known.has(canonical(value)));
}

/** The same text for equal JSON values, whatever the order of their keys. */
function canonical(value: unknown): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  const entries = Object.entries(value).sort(([x], [y]) => (x < y ? -1 : 1));
  return `{${entries.map(([key, one]) => `${JSON.stringify(key)}:${canonical(one)}`).join()}}`;
}
