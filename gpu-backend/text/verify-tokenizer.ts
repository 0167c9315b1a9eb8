import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadTokenizer } from './tokenizer.ts';

/** One expectation of a reference folder and how far we are from it. */
export interface VerifyRow {
  readonly case: string;
  readonly expectation: string;
  readonly error: number;
  readonly tolerance: number;
  readonly ok: boolean;
}

interface TokenizerCase {
  readonly text: string;
  readonly ids_as_text: readonly number[];
  readonly ids_with_specials: readonly number[];
}

/**
 * Checks a folder with tokenizer.json and cases.json (`[{text, ids_as_text, ids_with_specials}]`): ids in both modes, and
 * that decoding the text ids gives the text back. `error` counts the ids (or characters) that differ; none may.
 */
export function verifyTokenizer(dir: string): VerifyRow[] {
  const tokenizer = loadTokenizer(join(dir, 'tokenizer.json'));
  const cases = JSON.parse(readFileSync(join(dir, 'cases.json'), 'utf8')) as TokenizerCase[];
  return cases.flatMap(({ text, ids_as_text, ids_with_specials }) => {
    const label = JSON.stringify(text.length > 60 ? `${text.slice(0, 57)}...` : text);
    const row = (expectation: string, error: number): VerifyRow => ({
      case: label,
      expectation,
      error,
      tolerance: 0,
      ok: error === 0,
    });
    return [
      row('ids_as_text', countDifferences(tokenizer.encode(text), ids_as_text)),
      row('ids_with_specials', countDifferences(tokenizer.encodeWithSpecials(text), ids_with_specials)),
      row('decode', countDifferences([...tokenizer.decode(ids_as_text)], [...text])),
    ];
  });
}

function countDifferences<T>(got: readonly T[], expected: readonly T[]): number {
  let count = 0;
  for (let i = 0; i < Math.max(got.length, expected.length); i++) if (got[i] !== expected[i]) count++;
  return count;
}
