import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

interface Size {
  readonly width: number;
  readonly height: number;
  readonly sha256: string;
}

/** What make_pillow_golden.py wrote. */
export interface PillowGolden {
  readonly files: readonly (Size & {
    readonly name: string;
    readonly mode: string;
    readonly base64: string;
    readonly turned: Size;
  })[];
  readonly resizes: readonly (Size & { readonly source: string; readonly filter: string })[];
}

export const golden = JSON.parse(
  readFileSync(new URL('./pillow-golden.json', import.meta.url), 'utf8'),
) as PillowGolden;

export function goldenFile(name: string): Uint8Array {
  const found = golden.files.find((file) => file.name === name);
  if (!found) throw new Error(`no golden file ${name}`);
  return new Uint8Array(Buffer.from(found.base64, 'base64'));
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
