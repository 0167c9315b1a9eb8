/** Imports a file in a process of its own and says what it took; run by the memory test. */
import { importData } from '../../../gpu-backend/train/data/import.ts';

const [path, dir] = process.argv.slice(2);
if (path === undefined || dir === undefined) throw new Error('usage: import-rss.mts FILE FOLDER');
const before = process.resourceUsage().maxRSS;
const startedAt = performance.now();
const codes = new Map<string, number>();
const { store, files } = await importData(
  { files: [{ file_id: 'f', filename: path, file: { id: 'f', bytes: 1, sha256: 'x' } }], balancing: false },
  [path],
  dir,
  { onProblem: ({ code }) => codes.set(code, (codes.get(code) ?? 0) + 1) },
);
const result = {
  records: files[0]?.records,
  usable: files[0]?.usable,
  codes: Object.fromEntries(codes),
  /** MiB: of the process before anything was read, and at most. */
  idleMib: Math.round(before / 1024),
  peakMib: Math.round(process.resourceUsage().maxRSS / 1024),
  ms: Math.round(performance.now() - startedAt),
};
await store.close();
process.stdout.write(`${JSON.stringify(result)}\n`);
