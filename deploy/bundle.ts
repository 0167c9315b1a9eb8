/** The Worker as one ES module. `node --import tsx deploy/bundle.ts --size` prints its size as JSON. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '..');

/**
 * @param options.entry other Workers that tests run
 * @param options.testSeams whether tests may turn its clock and break its stores (`edge/seams.ts`); never in production
 * @returns the minified module's text; source maps stay out of it
 */
export async function bundleWorker(options: { entry?: string; testSeams?: boolean } = {}): Promise<string> {
  const { entry = join(ROOT, 'edge', 'worker.ts'), testSeams = false } = options;
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    format: 'esm',
    // workerd has no Node modules here; packages that can do without say so in their `browser` field (the AWS client takes fetch for http then).
    platform: 'browser',
    target: 'es2023',
    conditions: ['workerd', 'worker', 'browser', 'import'],
    mainFields: ['browser', 'module', 'main'],
    external: ['cloudflare:*', 'node:*'],
    define: { 'globalThis.MANTIS_TEST_SEAMS': String(testSeams) },
    // Names stay for the sake of stacks in logs; `keepNames` would set them anew each time a function is made.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: 'none',
    write: false,
    logLevel: 'warning',
  });
  const [file] = result.outputFiles;
  if (file === undefined) throw new Error('esbuild wrote no file');
  return file.text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = await bundleWorker();
  console.log(
    JSON.stringify({
      edgeBundleBytes: Buffer.byteLength(text),
      edgeBundleGzipBytes: gzipSync(text, { level: 9 }).byteLength,
    }),
  );
}
