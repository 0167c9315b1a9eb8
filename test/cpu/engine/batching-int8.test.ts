/**
 * Batches of the shipped model: exact in f32, reuse of prefixes included. With int8 weights, activations, keys and values, batches
 * and speculation change nothing either; a reused prefix, whose keys and values were rounded, changes a few tokens.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { agreement, fixtureQuestions, NLVR_DIR, nlvrQuestions } from './batching-nano.ts';

function check(found: Awaited<ReturnType<typeof agreement>>): void {
  assert.equal(found.f32.reusedAsAlone, 1);
  assert.ok(found.int8.batchedAsAlone >= 0.99, `${found.int8.batchedAsAlone} of the tokens are the solo ones`);
  assert.ok(found.int8.reusedAsAlone >= 0.95, `${found.int8.reusedAsAlone} with reused prefixes`);
  assert.ok(found.cachedTokens > 500 && found.tokensPerRun > 2, 'prefixes were reused and rows batched');
}

it('questions about the pictures of the fixtures', async (t) => {
  const found = await agreement(fixtureQuestions(32));
  t.diagnostic(JSON.stringify(found));
  check(found);
});

it('statements about the NLVR dev pictures', async (t) => {
  const questions = await nlvrQuestions(process.env.MANTIS_LONG_TESTS === '1' ? 1200 : 48);
  if (questions === null) {
    t.skip(`${NLVR_DIR} is not there`);
    return;
  }
  const found = await agreement(questions);
  t.diagnostic(JSON.stringify(found));
  check(found);
});
