import { canonicalJson, type EvalSpec, type Json } from '../task.ts';
import { questions } from './coverage.ts';
import { clip } from './items.ts';
import type { EvalComparison } from './schema.ts';

const MAX_VALUE_CHARS = 300;
const DIGEST = /\b([0-9a-f]{12})[0-9a-f]{20,}\b/g;

/**
 * Every value in which two runs did different things, by its path: `mode`, `protocol.parser`, … The data is one thing, told by the number of questions and how
 * they were chosen; digests, which people cannot compare, only where nothing else differs, and short.
 */
export function specDifferences(first: EvalSpec, second: EvalSpec): EvalComparison['specDifferences'] {
  const found: EvalComparison['specDifferences'] = [];
  const { data: asked, ...before } = first;
  const { data: askedToo, ...after } = second;
  compare(before as unknown as Json, after as unknown as Json, '', found);
  if (canonicalJson(asked as unknown as Json) === canonicalJson(askedToo as unknown as Json)) return found;
  // The shortest words that tell the two apart.
  for (const words of [dataWords, withSeed, withDigest]) {
    const [there, here] = [words(asked), words(askedToo)];
    if (there !== here) return [{ path: 'data', first: there, second: here }, ...found];
  }
  return [{ path: 'data', first: asked.digest, second: askedToo.digest }, ...found];
}

type Data = EvalSpec['data'];

function dataWords({ records, part }: Data): string {
  const chosen = part?.chosen;
  if (chosen === undefined) return questions(records);
  const count = chosen.of === null ? questions(records) : `${records} of ${questions(chosen.of)}`;
  return chosen.how === 'first' ? `the first ${count}` : `a sample of ${count}`;
}

function withSeed(data: Data): string {
  const chosen = data.part?.chosen;
  return chosen?.how === 'sample' ? `${dataWords(data)}, seed ${chosen.seed}` : dataWords(data);
}

function withDigest(data: Data): string {
  return `${dataWords(data)}, digest ${data.digest.slice(0, 12)}`;
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
  if (before === after) return;
  const [short, shortToo] = [before.replace(DIGEST, '$1…'), after.replace(DIGEST, '$1…')];
  const isTold = clip(short, MAX_VALUE_CHARS) !== clip(shortToo, MAX_VALUE_CHARS);
  found.push({
    path,
    first: clip(isTold ? short : before, MAX_VALUE_CHARS),
    second: clip(isTold ? shortToo : after, MAX_VALUE_CHARS),
  });
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function written(value: Json | undefined): string {
  return value === undefined ? 'nothing' : canonicalJson(value);
}
