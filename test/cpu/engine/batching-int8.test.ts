/**
 * Batches of the shipped model: exact in f32, reuse of prefixes included. With int8 weights, activations, keys and values, batches
 * and speculation hardly ever change a token; a reused prefix, whose keys and values were rounded, changes one or two in a hundred.
 */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import {
  agreement,
  answersAlone,
  answersTogether,
  fixtureQuestions,
  longAndShortQuestions,
  NLVR_DIR,
  nlvrQuestions,
  openNano,
} from './batching-nano.ts';

function check(found: Awaited<ReturnType<typeof agreement>>): void {
  assert.equal(found.f32.reusedAsAlone, 1);
  // Among a hundred tokens, one that hung by a thread is a percent already.
  const few = 2 / found.tokens;
  const { batchedAsAlone, reusedAsAlone } = found.int8;
  assert.ok(1 - batchedAsAlone <= Math.max(0.01, few), `${batchedAsAlone} of the tokens are the solo ones`);
  assert.ok(1 - reusedAsAlone <= Math.max(0.03, 2 * few), `${reusedAsAlone} with reused prefixes`);
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

it('short rows answer the same beside long ones, where the decoder is another graph', async () => {
  const runner = await openNano('f32', 'f32');
  const questions = longAndShortQuestions();
  const alone = await answersAlone(runner, questions);
  // One arena for all: its rows are as long as the longest.
  const { answers, tokensPerRun } = await answersTogether(runner, questions, { classBounds: [] });
  await runner.dispose();
  assert.deepEqual(answers, alone);
  // Answers of one word have two tokens, so more than one a run means that rows ran together.
  assert.ok(tokensPerRun > 1.5, `${tokensPerRun} tokens a run`);
});
