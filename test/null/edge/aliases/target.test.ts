/** What an alias stands for is known without the database, and not for longer than is promised. */
import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { aliasTarget, forgetAlias } from '../../../../edge/aliases/target.ts';
import type { Env } from '../../../../edge/env.ts';
import { LIMITS } from '../../../../shared/contract/limits.ts';

const { refreshAfterMs, staleAfterMs } = LIMITS.aliases;

/** A database that counts its questions; only what it answers matters here. */
function database() {
  const state = { model: 'm1' as string | null, asked: 0, isDown: false };
  const db = {
    prepare: () => ({
      bind: () => ({
        first: async () => {
          state.asked++;
          if (state.isDown) throw new Error('D1_ERROR: down');
          return state.model === null ? null : { model: state.model };
        },
      }),
    }),
  } as unknown as Env['DB'];
  return { state, db };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test('a young name asks nobody, an older one beside the request, a stale one before it', async (t) => {
  mock.timers.enable({ apis: ['Date'], now: 1_000_000 });
  t.after(() => mock.timers.reset());
  const { state, db } = database();
  const target = () => aliasTarget(db, 'tenant-a', 'name');
  assert.equal(await target(), 'm1');
  for (let i = 0; i < 1_000; i++) await target();
  assert.equal(state.asked, 1);
  state.model = 'm2';
  mock.timers.tick(refreshAfterMs + 1);
  assert.equal(await target(), 'm1', 'the request does not wait');
  await settled();
  assert.equal(await target(), 'm2');
  assert.equal(state.asked, 2);
  state.model = 'm3';
  mock.timers.tick(staleAfterMs + 1);
  assert.equal(await target(), 'm3', 'never older than promised');
  state.isDown = true;
  mock.timers.tick(refreshAfterMs + 1);
  assert.equal(await target(), 'm3', 'a database that is away for a moment harms nobody');
  await settled();
  mock.timers.tick(staleAfterMs + 1);
  await assert.rejects(target(), /down/);
});

test('what was changed here is known at once; other tenants’ names are their own; unknown ones are not kept', async () => {
  const { state, db } = database();
  assert.equal(await aliasTarget(db, 'tenant-b', 'other'), 'm1');
  state.model = 'm2';
  assert.equal(await aliasTarget(db, 'tenant-c', 'other'), 'm2');
  assert.equal(await aliasTarget(db, 'tenant-b', 'other'), 'm1');
  forgetAlias('tenant-b', 'other');
  assert.equal(await aliasTarget(db, 'tenant-b', 'other'), 'm2');
  state.model = null;
  assert.equal(await aliasTarget(db, 'tenant-b', 'nobody'), null);
  state.model = 'm4';
  assert.equal(await aliasTarget(db, 'tenant-b', 'nobody'), 'm4');
  const asked = state.asked;
  assert.equal(await aliasTarget(db, 'tenant-b', 'x'.repeat(LIMITS.aliases.maxNameChars + 1)), null);
  assert.equal(state.asked, asked, 'what can be no alias is not looked up');
});
