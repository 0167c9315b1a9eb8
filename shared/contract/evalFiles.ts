/** Where uploaded files of a benchmark lie: a benchmark is a folder, and many are published with the same file name in each of its folders. */

/**
 * The path of a file within the folder of its benchmark, from the name it was uploaded with: `Art\val.parquet` and `./Art/val.parquet` are `Art/val.parquet`.
 * @returns null where the name is no path below a folder: absolute, with `..`, hidden (readers pass over those), or with characters that no name has
 */
export function benchmarkPath(filename: string): string | null {
  const path = filename.replaceAll('\\', '/');
  if (path.startsWith('/') || /^[a-z]:/i.test(path)) return null;
  const steps = path.split('/').filter((step) => step !== '' && step !== '.');
  const isOdd = steps.some((step) => step.startsWith('.') || step.length > 200 || /\p{Cc}/u.test(step));
  return steps.length === 0 || isOdd ? null : steps.join('/');
}

/**
 * The first of these paths that cannot lie beside an earlier one: the same (some file systems know no case), or one below the other.
 * @returns its index and that of the earlier one; null where there is none
 */
export function clashOf(paths: readonly string[]): { readonly at: number; readonly earlier: number } | null {
  const files = new Map<string, number>();
  const folders = new Map<string, number>();
  for (const [at, path] of paths.entries()) {
    const key = path.normalize('NFC').toLowerCase();
    const above = key.split('/').map((_, i, steps) => steps.slice(0, i).join('/'));
    const earlier =
      files.get(key) ?? folders.get(key) ?? above.map((one) => files.get(one)).find((one) => one !== undefined);
    if (earlier !== undefined) return { at, earlier };
    files.set(key, at);
    for (const folder of above) if (folder !== '' && !folders.has(folder)) folders.set(folder, at);
  }
  return null;
}
