import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeImage } from '../../../gpu-backend/vision/decode.ts';
import { pixelFault, validPictures } from '../../fixtures/pictures/valid.ts';

const count = process.env.MANTIS_LONG_TESTS === '1' ? 5_000 : 280;
test(`${count} pictures of every accepted kind give the pixels they were made of`, async () => {
  const seed = 20261125;
  const faults: string[] = [];
  let index = 0;
  for await (const picture of validPictures(count, seed)) {
    const fault = await decodeImage(picture.bytes).then(
      (image) => pixelFault(image, picture),
      (error: unknown) => `was refused: ${error}`,
    );
    if (fault !== null) faults.push(`${index} (${picture.name}) ${fault}`);
    index++;
  }
  assert.deepEqual(faults, [], `seed ${seed}`);
});
