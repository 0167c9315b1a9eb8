import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { loadCheckpoint } from '../../gpu-backend/models/load.ts';
import { decodeByLoop, decodeByStep, firstTokens } from '../fixtures/greedy.ts';
import { testDevices } from './device.ts';

const NANO = join(import.meta.dirname, '../../gpu-backend/models/nano');
const TOKENS = 12;

for (const { device, placement, skip } of await testDevices()) {
  test(`${device}: several tokens a run are the tokens of single steps on the processor`, { skip }, async () => {
    const nano = loadCheckpoint(NANO);
    const prefilled = await firstTokens(nano, [
      [1, 5, 9, 30, 41, 7],
      [1, 77, 12, 300, 6, 8, 99, 14, 2],
    ]);
    const want = await decodeByStep(nano, prefilled, TOKENS);
    assert.deepEqual((await decodeByStep(nano, prefilled, TOKENS, placement)).tokens, want.tokens, 'single steps');
    assert.deepEqual((await decodeByLoop(nano, prefilled, TOKENS, 6, [], placement)).tokens, want.tokens, 'a loop');
  });
}
