/** Every keyword of JSON schema that is understood, and what its value must be. */
import { describe } from '../../../shared/contract/errors.ts';
import { GrammarError } from './expr.ts';
import type { JsonType } from './schema-reader.ts';

export interface Keyword {
  /** `note`: says nothing about values. `combination`: refers to or combines schemas. */
  readonly use: 'constraint' | 'combination' | 'note';
  readonly value:
    | 'any'
    | 'string'
    | 'strings'
    | 'types'
    | 'number'
    | 'positive'
    | 'count'
    | 'boolean'
    | 'schema'
    | 'schemas'
    | 'named'
    | 'values';
  /** The type of value that it speaks of. */
  readonly speaksOf?: JsonType;
}

const note: Keyword = { use: 'note', value: 'any' };
const combination = (value: Keyword['value']): Keyword => ({ use: 'combination', value });
const constraint = (value: Keyword['value'], speaksOf?: JsonType): Keyword =>
  speaksOf === undefined ? { use: 'constraint', value } : { use: 'constraint', value, speaksOf };

export const KEYWORDS: Readonly<Record<string, Keyword>> = {
  $schema: note,
  $id: note,
  $comment: note,
  title: note,
  description: note,
  default: note,
  examples: note,
  deprecated: note,
  readOnly: note,
  writeOnly: note,
  $defs: { use: 'note', value: 'named' },
  definitions: { use: 'note', value: 'named' },
  $ref: combination('string'),
  allOf: combination('schemas'),
  anyOf: combination('schemas'),
  oneOf: combination('schemas'),
  type: constraint('types'),
  enum: constraint('values'),
  const: constraint('any'),
  properties: constraint('named', 'object'),
  required: constraint('strings', 'object'),
  additionalProperties: constraint('schema', 'object'),
  minProperties: constraint('count', 'object'),
  maxProperties: constraint('count', 'object'),
  items: constraint('schema', 'array'),
  prefixItems: constraint('schemas', 'array'),
  minItems: constraint('count', 'array'),
  maxItems: constraint('count', 'array'),
  minLength: constraint('count', 'string'),
  maxLength: constraint('count', 'string'),
  pattern: constraint('string', 'string'),
  format: constraint('string', 'string'),
  minimum: constraint('number', 'number'),
  maximum: constraint('number', 'number'),
  exclusiveMinimum: constraint('number', 'number'),
  exclusiveMaximum: constraint('number', 'number'),
  multipleOf: constraint('positive', 'number'),
};

const TYPES: ReadonlySet<unknown> = new Set<JsonType>([
  'null',
  'boolean',
  'integer',
  'number',
  'string',
  'array',
  'object',
]);

const EXPECTED: Readonly<Record<Exclude<Keyword['value'], 'any'>, string>> = {
  string: 'a string',
  strings: 'an array of strings',
  types: `one or several of ${[...TYPES].join(', ')}`,
  number: 'a number',
  positive: 'a number above 0',
  count: 'a whole number, 0 or more',
  boolean: 'true or false',
  schema: 'a schema (an object, true or false)',
  schemas: 'a non-empty array of schemas',
  named: 'an object of schemas',
  values: 'a non-empty array of values',
};

/** @throws GrammarError naming the path when the value of a keyword is not what the keyword takes */
export function checkKeyword(key: string, keyword: Keyword, value: unknown, path: string): void {
  if (keyword.value === 'any' || isFitting(keyword.value, value)) return;
  throw new GrammarError('invalid', path, `${key}: expected ${EXPECTED[keyword.value]}, got ${describe(value)}`);
}

function isFitting(kind: Exclude<Keyword['value'], 'any'>, value: unknown): boolean {
  switch (kind) {
    case 'string':
      return typeof value === 'string';
    case 'strings':
      return Array.isArray(value) && value.every((one) => typeof one === 'string');
    case 'types':
      return Array.isArray(value) ? value.length > 0 && value.every((one) => TYPES.has(one)) : TYPES.has(value);
    case 'number':
      return typeof value === 'number' && Number.isFinite(value);
    case 'positive':
      return typeof value === 'number' && Number.isFinite(value) && value > 0;
    case 'count':
      return Number.isSafeInteger(value) && (value as number) >= 0;
    case 'boolean':
      return typeof value === 'boolean';
    case 'schema':
      return typeof value === 'boolean' || isRecord(value);
    case 'schemas':
      return Array.isArray(value) && value.length > 0;
    case 'named':
      return isRecord(value);
    case 'values':
      return Array.isArray(value) && value.length > 0;
    default:
      return kind satisfies never;
  }
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
