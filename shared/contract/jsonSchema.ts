/**
 * JSON Schema as items of evaluations are checked by it: the keywords that say what a value is, no patterns, nothing from elsewhere. A schema with any other
 * keyword is refused by its path, so that nothing which looks like a check is none. Bounded in depth and work for schemas and values of strangers.
 */
import { describe, fieldPath } from './errors.ts';
import { LIMITS } from './limits.ts';

type Path = readonly (string | number)[];

/** Something that is wrong, and where. */
export type SchemaProblem = { readonly path: string; readonly message: string };

const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const;

/** Say nothing about what is right. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  '$schema',
  '$id',
  '$comment',
  'title',
  'description',
  'default',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'format',
  'strict',
]);
const ONE: ReadonlySet<string> = new Set(['items', 'additionalProperties', 'not']);
const MANY: ReadonlySet<string> = new Set(['anyOf', 'oneOf', 'allOf', 'prefixItems']);
const NAMED: ReadonlySet<string> = new Set(['properties', '$defs', 'definitions']);
const COUNTS: ReadonlySet<string> = new Set([
  'minItems',
  'maxItems',
  'minLength',
  'maxLength',
  'minProperties',
  'maxProperties',
]);
const NUMBERS: ReadonlySet<string> = new Set([
  'minimum',
  'maximum',
  'exclusiveMinimum',
  'exclusiveMaximum',
  'multipleOf',
]);

/** What is wrong with a schema; nothing where it can be checked by. @param at field that holds it */
export function schemaProblems(schema: unknown, at: Path): SchemaProblem[] {
  const problems: SchemaProblem[] = [];
  const complain = (path: Path, message: string): void => {
    if (problems.length < LIMITS.request.maxReportedViolations) problems.push({ path: fieldPath(path), message });
  };
  const look = (part: unknown, path: Path, depth: number): void => {
    if (typeof part === 'boolean') return;
    if (!isObject(part)) {
      complain(path, `expected a schema, received ${describe(part)}`);
      return;
    }
    if (depth > LIMITS.evals.maxSchemaDepth) {
      complain(path, `expected at most ${LIMITS.evals.maxSchemaDepth} schemas within each other, received more`);
      return;
    }
    for (const [key, value] of Object.entries(part)) {
      const here = [...path, key];
      if (ANNOTATIONS.has(key) || key === 'const') continue;
      if (ONE.has(key)) look(value, here, depth + 1);
      else if (MANY.has(key)) {
        if (!Array.isArray(value) || value.length === 0) complain(here, 'expected a list of schemas');
        else value.forEach((one, i) => look(one, [...here, i], depth + 1));
      } else if (NAMED.has(key)) {
        if (!isObject(value)) complain(here, 'expected schemas by name');
        else for (const [name, one] of Object.entries(value)) look(one, [...here, name], depth + 1);
      } else if (COUNTS.has(key)) {
        if (!Number.isInteger(value) || (value as number) < 0)
          complain(here, `expected a whole number, received ${describe(value)}`);
      } else if (NUMBERS.has(key)) {
        if (typeof value !== 'number' || (key === 'multipleOf' && value <= 0))
          complain(here, `expected a ${key === 'multipleOf' ? 'positive ' : ''}number, received ${describe(value)}`);
      } else if (key === 'type') {
        const types = Array.isArray(value) ? value : [value];
        const bad = types.find((type) => !TYPES.includes(type as (typeof TYPES)[number]));
        if (types.length === 0 || bad !== undefined)
          complain(here, `expected one of ${TYPES.join(', ')}, received ${describe(bad)}`);
      } else if (key === 'required') {
        if (!Array.isArray(value) || value.some((name) => typeof name !== 'string'))
          complain(here, 'expected a list of names');
      } else if (key === 'enum') {
        if (!Array.isArray(value) || value.length === 0) complain(here, 'expected a list of values');
      } else if (key === 'uniqueItems') {
        if (typeof value !== 'boolean') complain(here, `expected true or false, received ${describe(value)}`);
      } else if (key === '$ref') {
        if (typeof value !== 'string' || resolve(schema, value) === undefined)
          complain(here, `expected a place within this schema, such as "#/$defs/name", received ${describe(value)}`);
      } else complain(here, `expected a keyword that is supported here, received ${JSON.stringify(key.slice(0, 64))}`);
    }
  };
  look(schema, at, 1);
  return problems;
}

/** What is wrong with a value by a schema in which nothing is; the first thing only. Null: it fits. @param at name of the value */
export function schemaMismatch(schema: unknown, value: unknown, at: string): SchemaProblem | null {
  let left: number = LIMITS.evals.maxSchemaSteps;
  const check = (part: unknown, one: unknown, path: Path, refs: number): SchemaProblem | null => {
    const wrong = (message: string, inner: Path = path): SchemaProblem => ({ path: fieldPath(inner), message });
    if (--left < 0)
      return wrong(
        `expected a value that is checked in ${LIMITS.evals.maxSchemaSteps} steps, received one that is not`,
      );
    if (part === true) return null;
    if (part === false) return wrong(`expected nothing here, received ${describe(one)}`);
    const schemaHere = part as Record<string, unknown>;
    if (typeof schemaHere.$ref === 'string') {
      if (refs > LIMITS.evals.maxSchemaDepth)
        return wrong('expected a schema that ends, received references in a circle');
      const found = check(resolve(schema, schemaHere.$ref), one, path, refs + 1);
      if (found !== null) return found;
    }
    const found = checkOwn(schemaHere, one, path, wrong);
    if (found !== null) return found;
    for (const inner of (schemaHere.allOf as unknown[] | undefined) ?? []) {
      const problem = check(inner, one, path, refs + 1);
      if (problem !== null) return problem;
    }
    const { anyOf, oneOf, not } = schemaHere as { anyOf?: unknown[]; oneOf?: unknown[]; not?: unknown };
    if (anyOf !== undefined) {
      const problems = anyOf.map((inner) => check(inner, one, path, refs + 1));
      if (!problems.includes(null)) return problems[0] ?? wrong('expected one of the alternatives');
    }
    if (oneOf !== undefined) {
      const problems = oneOf.map((inner) => check(inner, one, path, refs + 1));
      const fitting = problems.filter((problem) => problem === null).length;
      if (fitting === 0) return problems[0] ?? wrong('expected one of the alternatives');
      if (fitting > 1) return wrong(`expected exactly one of the alternatives, received a value that fits ${fitting}`);
    }
    if (not !== undefined && check(not, one, path, refs + 1) === null)
      return wrong('expected a value that does not fit "not", received one that does');
    if (Array.isArray(one)) {
      const prefix = (schemaHere.prefixItems as unknown[] | undefined) ?? [];
      for (const [i, element] of one.entries()) {
        const inner = i < prefix.length ? prefix[i] : schemaHere.items;
        const problem = inner === undefined ? null : check(inner, element, [...path, i], 0);
        if (problem !== null) return problem;
      }
    } else if (isObject(one)) {
      const properties = (schemaHere.properties as Record<string, unknown> | undefined) ?? {};
      for (const [name, field] of Object.entries(one)) {
        const inner = Object.hasOwn(properties, name) ? properties[name] : schemaHere.additionalProperties;
        const problem = inner === undefined ? null : check(inner, field, [...path, name], 0);
        if (problem !== null) return problem;
      }
    }
    return null;
  };
  return check(schema, value, [at], 0);
}

function checkOwn(
  schema: Record<string, unknown>,
  value: unknown,
  path: Path,
  wrong: (message: string, path?: Path) => SchemaProblem,
): SchemaProblem | null {
  const { type, required } = schema as { type?: unknown; required?: string[] };
  if (type !== undefined) {
    const types = (Array.isArray(type) ? type : [type]) as string[];
    if (!types.some((name) => hasType(value, name)))
      return wrong(`expected ${types.join(' or ')}, received ${describe(value)}`);
  }
  if (schema.const !== undefined && !equal(schema.const, value))
    return wrong(`expected ${describe(schema.const)}, received ${describe(value)}`);
  if (Array.isArray(schema.enum) && !schema.enum.some((one) => equal(one, value)))
    return wrong(`expected one of ${schema.enum.slice(0, 20).map(describe).join(', ')}, received ${describe(value)}`);
  const size =
    typeof value === 'string'
      ? ([...value].length as number)
      : Array.isArray(value)
        ? value.length
        : isObject(value)
          ? Object.keys(value).length
          : null;
  const [least, most, unit] =
    typeof value === 'string'
      ? [schema.minLength, schema.maxLength, 'characters']
      : Array.isArray(value)
        ? [schema.minItems, schema.maxItems, 'elements']
        : [schema.minProperties, schema.maxProperties, 'fields'];
  if (size !== null && typeof least === 'number' && size < least)
    return wrong(`expected at least ${least} ${unit}, received ${size}`);
  if (size !== null && typeof most === 'number' && size > most)
    return wrong(`expected at most ${most} ${unit}, received ${size}`);
  if (schema.uniqueItems === true && Array.isArray(value) && new Set(value.map(canonical)).size < value.length)
    return wrong('expected elements that differ, received equal ones');
  if (typeof value === 'number') {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema as Record<
      string,
      number | undefined
    >;
    if (minimum !== undefined && value < minimum) return wrong(`expected at least ${minimum}, received ${value}`);
    if (maximum !== undefined && value > maximum) return wrong(`expected at most ${maximum}, received ${value}`);
    if (exclusiveMinimum !== undefined && value <= exclusiveMinimum)
      return wrong(`expected more than ${exclusiveMinimum}, received ${value}`);
    if (exclusiveMaximum !== undefined && value >= exclusiveMaximum)
      return wrong(`expected less than ${exclusiveMaximum}, received ${value}`);
    if (multipleOf !== undefined && Math.abs(value / multipleOf - Math.round(value / multipleOf)) > 1e-9)
      return wrong(`expected a multiple of ${multipleOf}, received ${value}`);
  }
  if (isObject(value))
    for (const name of required ?? [])
      if (!Object.hasOwn(value, name)) return wrong('expected a value, received nothing', [...path, name]);
  return null;
}

function hasType(value: unknown, type: string): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'object') return isObject(value);
  if (type === 'integer') return Number.isInteger(value);
  return typeof value === type;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The whole schema, or one of its definitions; undefined where nothing is there. */
function resolve(root: unknown, reference: string): unknown {
  if (reference === '#') return root;
  const [, group, name] = /^#\/(\$defs|definitions)\/([^/]+)$/.exec(reference) ?? [];
  if (group === undefined || name === undefined || !isObject(root)) return undefined;
  const definitions = root[group];
  const key = name.replaceAll('~1', '/').replaceAll('~0', '~');
  const found = isObject(definitions) && Object.hasOwn(definitions, key) ? definitions[key] : undefined;
  return typeof found === 'boolean' || isObject(found) ? found : undefined;
}

function equal(a: unknown, b: unknown): boolean {
  return canonical(a) === canonical(b);
}

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (!isObject(value)) return JSON.stringify(value) ?? 'undefined';
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, one]) => `${JSON.stringify(key)}:${canonical(one)}`).join(',')}}`;
}
