import { canonicalJson, type EvalSpec, type Json } from '../task.ts';
import { clip } from './items.ts';
import type { EvalComparison } from './schema.ts';

const MAX_VALUE_CHARS = 300;

/** Every value in which two runs did different things, by its path: `data.records`, `protocol.parser`, … */
export function specDifferences(first: EvalSpec, second: EvalSpec): EvalComparison['specDifferences'] {
  const found: EvalComparison['specDifferences'] = [];
  compare(first as unknown as Json, second as unknown as Json, '', found);
  return found;
}

function compare(
  first: Json | undefined,
  second: Json | undefined,
  path: string,
  found: EvalComparison['specDifferences'],
): void {
  if (isObject(first) && isObject(second)) {
    for (const key of [...new Set([...Object.keys(first), ...Object.keys(second)])].sort())
      compare(first[key], second[key], path === '' ? key : `${path}.${key}`, found);
    return;
  }
  const [before, after] = [written(first), written(second)];
  if (before !== after)
    found.push({ path, first: clip(before, MAX_VALUE_CHARS), second: clip(after, MAX_VALUE_CHARS) });
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function written(value: Json | undefined): string {
  return value === undefined ? 'nothing' : canonicalJson(value);
}
