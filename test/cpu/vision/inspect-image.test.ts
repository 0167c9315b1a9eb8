import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { preprocessImage } from '../../../gpu-backend/vision/preprocess.ts';
import { parseRecipe } from '../../../gpu-backend/vision/recipes.ts';

const path = (relative: string): string => fileURLToPath(new URL(`../../../${relative}`, import.meta.url));
const run = promisify(execFile);

test('mantis inspect-image says what a model would see, without a model', async () => {
  const picture = path('test/fixtures/pictures/frame-1.png');
  const { stdout } = await run(process.execPath, [
    path('gpu-backend/cli/mantis.mjs'),
    'inspect-image',
    '--json',
    picture,
  ]);
  const report = JSON.parse(stdout) as Record<string, unknown>;
  const recipe = parseRecipe(
    JSON.parse(readFileSync(path('gpu-backend/models/nano/preprocessor_config.json'), 'utf8')),
  );
  const { digest, width, height, source } = await preprocessImage(readFileSync(picture), recipe);
  assert.deepEqual(
    [report.digest, report.model_width, report.model_height, report.width, report.height, report.format],
    [digest, width, height, source.width, source.height, 'png'],
  );
  assert.equal(report.tokens, 25);
});

test('it names what cannot be used, and ends with 1', async () => {
  const failed = run(process.execPath, [path('gpu-backend/cli/mantis.mjs'), 'inspect-image', path('README.md')]);
  await assert.rejects(failed, (error: Error & { code?: number; stdout?: string }) => {
    assert.equal(error.code, 1);
    assert.match(error.stdout ?? '', /README\.md: invalid_image_format: image: expected a JPEG/);
    return true;
  });
});
