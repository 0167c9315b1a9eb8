/** The dispatcher under a virtual clock: the schedule, receivers that fail, kills, endpoints that die and come back, and what is kept how long. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { webhookBacklog } from '../../../edge/store/operations.ts';
import { deliveryId, getDelivery, redeliver, redeliverRange } from '../../../edge/store/webhookDeliveries.ts';
import { deleteEndpoint, liveSecrets, updateEndpoint } from '../../../edge/store/webhookEndpoints.ts';
import {
  insertDeliveries,
  showWebhookEvent,
  sweepWebhooks,
  type WebhookEventRow,
} from '../../../edge/store/webhooks.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { matchesFilter, WebhookEventFilter, WebhookEventType } from '../../../shared/contract/webhooks.ts';
import { seeded } from '../../fixtures/virtual-time.ts';
import { webhookBar } from '../../fixtures/webhook-bar.ts';
import { immediateHmac, NO_FAULTS, START_MS, TENANT, WebhookWorld } from '../../fixtures/webhook-world.ts';

const W = LIMITS.webhooks;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const ACTOR = { tenant: TENANT, keyId: 'key_test', requestId: null };

let world: WebhookWorld;
let restore: () => void;

before(() => {
  restore = immediateHmac();
});
after(() => restore());
beforeEach(async () => {
  world = await WebhookWorld.open(7, NO_FAULTS);
});
afterEach(() => world.db.close());

const audited = (action: string) =>
  world.db.rows<{ object: string; data: string }>('SELECT object, data FROM audit_log WHERE action = ?', action);
const states = () =>
  world.db.rows<{ status: string; n: number }>(
    'SELECT status, COUNT(*) AS n FROM webhook_deliveries GROUP BY 1 ORDER BY 1',
  );

describe('deliveries under a virtual clock', () => {
  it('survive faults and kills: each made or a dead letter, one effect, no more doubles than there may be', async () => {
    const report = await webhookBar({ events: 400, kills: 20, seed: 3, everyMs: 1_000, openaiEvery: 5 });
    restore = immediateHmac();
    assert.equal(report.deliveries, 3 * report.events);
    assert.equal(report.kills, 20);
    assert.equal(report.unfinished, 0);
    assert.equal(report.deadTooSoon, 0);
    assert.equal(report.wrongEffects, 0);
    assert.ok(report.deadLettered <= 3);
    assert.ok(report.duplicates <= report.duplicatesAllowed, `${report.duplicates} of ${report.duplicatesAllowed}`);
    assert.ok(report.duplicates >= 20, 'kills and lost answers make doubles, or nothing was tested');
    assert.equal(report.brokenSequences, 0);
    assert.equal(report.unverified, 0);
    assert.equal(report.afterOverlapByOldKey, 0);
    assert.ok(report.verified.standardwebhooks > 1.3 * report.deliveries && report.verified.openai > 100);
    // 99.19 % and 99.76 % are to be expected; a small number of events strays.
    assert.ok(report.within36MinPct >= 98.3, `${report.within36MinPct} % within 36 min`);
    assert.ok(report.within160MinPct >= 99.2, `${report.within160MinPct} % within 2 h 40 min`);
  });

  it('keep the schedule, and end as one dead letter with one notice', async () => {
    const { id } = await world.endpoint();
    world.receiver = () => new Response('no', { status: 500 });
    await world.happen('batch.failed', 'batch_1');
    await world.time.runUntil(START_MS + 80 * HOUR_MS);
    const offsets = world.calls.map(({ atMs }) => atMs - START_MS);
    assert.equal(offsets.length, 10);
    let promised = 0;
    for (const [i, offset] of offsets.entries()) {
      promised += W.retryAfterMs[i] ?? 0;
      // A call takes up to 165 ms, ten of them.
      assert.ok(
        offset >= promised * 0.9 && offset <= promised + 2_000,
        `attempt ${i + 1} at ${offset} ms, promised ${promised}`,
      );
    }
    assert.equal(new Set(world.calls.map(({ headers }) => headers['webhook-id'])).size, 1);
    assert.equal(new Set(world.calls.map(({ headers }) => headers['webhook-timestamp'])).size, 10);
    assert.equal(new Set(world.calls.map(({ body }) => body)).size, 1);
    assert.deepEqual(states(), [{ status: 'failed', n: 1 }]);
    const [call] = world.calls;
    assert.deepEqual(
      audited('webhook_delivery.failed').map(({ object }) => object),
      [deliveryId(call?.headers['webhook-id'] ?? '', id)],
    );
    assert.deepEqual(await webhookBacklog(world.d1, world.time.nowMs), { waiting: 0, overdueMs: 0 });
  });

  it('disable an endpoint that fails for five days, once, and make good for all it missed', async () => {
    const { id } = await world.endpoint(['batch.*']);
    const { time } = world;
    let isDead = true;
    world.receiver = () => (isDead ? 'reset' : undefined);
    const total = 24 * 7;
    for (let hour = 0; hour < total; hour++)
      time.after(hour * HOUR_MS, () => void world.happen('batch.completed', `batch_${hour}`));
    await time.runUntil(START_MS + 7 * DAY_MS);
    const row = world.row(id);
    assert.equal(row.disabled_reason, 'failing');
    const after5Days = (row.disabled_at ?? 0) - (row.failing_since ?? 0);
    assert.ok(after5Days >= W.disableAfterMs && after5Days < W.disableAfterMs + 2 * HOUR_MS, `${after5Days} ms`);
    assert.equal(audited('webhook_endpoint.disabled').length, 1);
    isDead = false;
    assert.equal(world.processed.size, 0);
    await updateEndpoint(world.d1, ACTOR, id, { status: 'enabled' }, time.nowMs);
    const range = {
      sinceMs: START_MS,
      untilMs: time.nowMs + 1,
      statuses: ['failed', 'cancelled', 'missing'],
      filters: null,
    };
    assert.equal(await redeliverRange(world.d1, ACTOR, id, range, time.nowMs), total);
    world.wake();
    await time.runUntil(time.nowMs + HOUR_MS);
    assert.equal(world.processed.size, total);
    assert.deepEqual(states(), [{ status: 'delivered', n: total }]);
    assert.equal(world.row(id).failing_since, null);
    assert.equal(await redeliverRange(world.d1, ACTOR, id, range, time.nowMs), 0);
  });

  it('disable an endpoint that answers 410, and send nothing more to it', async () => {
    const { id } = await world.endpoint();
    world.receiver = () => new Response(null, { status: 410 });
    for (let i = 0; i < 20; i++) await world.happen('batch.failed', `batch_${i}`);
    await world.time.runUntil(START_MS + HOUR_MS);
    assert.ok(world.calls.length <= W.callsAtOnce, 'only those under way at that moment');
    assert.equal(world.row(id).disabled_reason, 'gone');
    assert.equal(audited('webhook_endpoint.disabled').length, 1);
    assert.deepEqual(states(), [{ status: 'cancelled', n: 20 }]);
    await world.happen('batch.failed', 'batch_late');
    await world.time.runUntil(world.time.nowMs + HOUR_MS);
    assert.ok(world.calls.length <= W.callsAtOnce);
  });

  it('wait as long as a receiver asks, and up to a tenth longer', async () => {
    await world.endpoint();
    let asks = true;
    world.receiver = () => {
      if (!asks) return undefined;
      asks = false;
      return new Response(null, { status: 503, headers: { 'retry-after': '900' } });
    };
    await world.happen('batch.failed', 'batch_1');
    await world.time.runUntil(START_MS + HOUR_MS);
    const [first, second] = world.calls.map(({ atMs }) => atMs);
    const gapS = ((second ?? 0) - (first ?? 0)) / 1000;
    assert.ok(gapS >= 900 && gapS <= 991, `${gapS} s`);
  });

  it('hold nobody up behind endpoints that hang', async () => {
    const hanging = new Set<string>();
    for (let i = 0; i < 20; i++) hanging.add((await world.endpoint()).id);
    const quick = await world.endpoint();
    world.receiver = ({ endpointId }) => (hanging.has(endpointId) ? 'timeout' : undefined);
    const made = new Map<string, number>();
    for (let i = 0; i < 300; i++)
      world.time.after(i * 100, () => {
        const atMs = world.time.nowMs;
        void world.happen('batch.failed', `batch_${i}`).then((id) => made.set(id, atMs));
      });
    await world.time.runUntil(START_MS + 60_000);
    const lags = world.calls
      .filter(({ endpointId }) => endpointId === quick.id)
      .map(({ atMs, headers }) => atMs - (made.get(headers['webhook-id'] ?? '') ?? 0));
    assert.equal(lags.length, 300);
    assert.ok(Math.max(...lags) < 500, `${Math.max(...lags)} ms`);
    const { waiting, overdueMs } = await webhookBacklog(world.d1, world.time.nowMs);
    assert.ok(waiting >= 20 * 200 && overdueMs < 1_000, 'a slow receiver is no fault of the installation');
    // Never more at once than an endpoint may have.
    assert.ok(world.calls.length - 300 <= 20 * W.callsAtOnce * 5);
  });

  it('are found by the sweep where the wake-up was lost, and where the database failed', async () => {
    await world.endpoint();
    await world.happen('batch.failed', 'batch_1', false);
    await world.time.runUntil(START_MS + 65_000);
    assert.equal(world.processed.size, 1);
    // The first claim is lost with its sender: nobody else takes it before it runs out.
    world.takesOver = false;
    world.receiver = () => (world.kills === 0 ? 'timeout' : undefined);
    await world.happen('batch.failed', 'batch_2');
    await world.time.runUntil(world.time.nowMs + 1_000);
    const killedAtMs = world.time.nowMs;
    assert.ok(world.kill());
    world.start();
    await world.time.runUntil(killedAtMs + W.claimMs + 65_000);
    const again = world.calls.at(-1);
    const afterMs = (again?.atMs ?? 0) - killedAtMs;
    assert.ok(afterMs > W.claimMs - 2_000 && afterMs < W.claimMs + 61_000, `${afterMs} ms`);
    assert.equal(world.db.rows(`SELECT 1 FROM webhook_deliveries WHERE status = 'delivered'`).length, 2);
  });

  it('begin anew by hand, with all attempts again', async () => {
    const { id } = await world.endpoint();
    let isDead = true;
    world.receiver = () => (isDead ? new Response(null, { status: 500 }) : undefined);
    const event = await world.happen('batch.failed', 'batch_1');
    await world.time.runUntil(START_MS + 80 * HOUR_MS);
    isDead = false;
    const dead = await getDelivery(world.d1, TENANT, deliveryId(event, id));
    assert.equal(dead?.status, 'failed');
    assert.equal(await getDelivery(world.d1, 'another', deliveryId(event, id)), null);
    assert.ok(dead !== null && (await redeliver(world.d1, ACTOR, dead, world.time.nowMs)));
    assert.ok(!(await redeliver(world.d1, { ...ACTOR, tenant: 'another' }, dead, world.time.nowMs)));
    world.wake();
    await world.time.runUntil(world.time.nowMs + 1_000);
    const made = await getDelivery(world.d1, TENANT, deliveryId(event, id));
    assert.deepEqual([made?.status, made?.attempts], ['delivered', 1]);
    assert.equal(world.db.rows('SELECT 1 FROM webhook_attempts').length, 11);
    assert.ok(await deleteEndpoint(world.d1, ACTOR, id));
    for (const table of ['webhook_deliveries', 'webhook_attempts'])
      assert.equal(world.db.rows(`SELECT 1 FROM ${table}`).length, 0, table);
  });
});

describe('events', () => {
  it('are written only with the change that they tell of, and of checkpoints not every one', async () => {
    await world.endpoint();
    const insert = (guard: string, type: WebhookEventType, atMs: number) =>
      world.d1.batch(
        insertDeliveries(
          world.d1,
          {
            id: `evt_${Math.random()}`,
            tenant: TENANT,
            type,
            objectId: 'ftjob-1',
            createdAtMs: atMs,
            data: { more: 'x' },
          },
          guard,
          atMs,
        ),
      );
    await insert('FALSE', 'fine_tuning.job.succeeded', START_MS);
    assert.equal(world.db.rows('SELECT 1 FROM webhook_events').length, 0);
    assert.equal(world.db.rows('SELECT 1 FROM webhook_sequences').length, 0);
    for (let s = 0; s < 300; s += 10) await insert('TRUE', 'fine_tuning.job.checkpoint', START_MS + s * 1000);
    await insert('TRUE', 'fine_tuning.job.succeeded', START_MS + 300_000);
    const rows = world.db.rows<WebhookEventRow>('SELECT * FROM webhook_events ORDER BY seq');
    assert.deepEqual(
      rows.map(({ sequence, type }) => `${sequence} ${type.split('.').at(-1)}`),
      ['1 checkpoint', '2 checkpoint', '3 checkpoint', '4 checkpoint', '5 checkpoint', '6 succeeded'],
    );
    const [first] = rows;
    assert.ok(first !== undefined);
    assert.deepEqual(showWebhookEvent(first).data, { id: 'ftjob-1', sequence: 1, more: 'x' });
    assert.throws(
      () =>
        insertDeliveries(
          world.d1,
          {
            id: 'evt_1',
            tenant: TENANT,
            type: 'batch.failed',
            objectId: 'b',
            createdAtMs: 0,
            data: { x: 'x'.repeat(20_000) },
          },
          'TRUE',
          0,
        ),
      /ids only/,
    );
  });

  it('pass the same filters in SQL as in the contract', async () => {
    const wanted = new Map<string, string>();
    for (const filter of WebhookEventFilter.options) wanted.set((await world.endpoint([filter])).id, filter);
    for (const type of WebhookEventType.options) await world.happen(type, `thing of ${type}`, false);
    const rows = world.db.rows<{ endpoint_id: string; type: string }>(
      'SELECT endpoint_id, type FROM webhook_deliveries',
    );
    const got = new Set(rows.map(({ endpoint_id, type }) => `${wanted.get(endpoint_id)} ${type}`));
    const expected = WebhookEventFilter.options.flatMap((filter) =>
      WebhookEventType.options.filter((type) => matchesFilter(type, [filter])).map((type) => `${filter} ${type}`),
    );
    assert.deepEqual([...got].sort(), expected.sort());
  });

  it('come to the same end in any order, by their sequence', async () => {
    const random = seeded(11);
    const types = ['fine_tuning.job.paused', 'fine_tuning.job.checkpoint', 'fine_tuning.job.succeeded'] as const;
    for (let i = 0; i < 12; i++) await world.happen(types[i % 3] ?? types[0], 'ftjob-1', false);
    const events = world.db.rows<WebhookEventRow>('SELECT * FROM webhook_events ORDER BY seq').map(showWebhookEvent);
    const last = events.at(-1)?.type;
    for (let round = 0; round < 1_000; round++) {
      const order = events.map((event) => [random(), event] as const).sort(([a], [b]) => a - b);
      const state = { sequence: 0, type: '' };
      for (const [, event] of order)
        if (event.data.sequence > state.sequence)
          Object.assign(state, { sequence: event.data.sequence, type: event.type });
      assert.deepEqual(state, { sequence: events.length, type: last });
    }
  });

  it('are kept for 30 days, their count for ever', async () => {
    const { id } = await world.endpoint();
    const { time } = world;
    await world.happen('alias.promoted', 'current');
    await time.runUntil(START_MS + DAY_MS);
    world.receiver = () => 'reset';
    await world.happen('alias.promoted', 'current');
    await time.runUntil(START_MS + 29 * DAY_MS);
    await world.sweep();
    assert.equal(world.db.rows('SELECT 1 FROM webhook_events').length, 2);
    await world.rotate(id, HOUR_MS);
    assert.equal(liveSecrets(world.row(id), time.nowMs).length, 2);
    await time.runUntil(START_MS + 35 * DAY_MS);
    assert.equal(liveSecrets(world.row(id), time.nowMs).length, 1);
    await world.sweep();
    assert.equal(world.row(id).old_secrets, '[]', 'a secret that signs no more is forgotten');
    for (const table of ['webhook_events', 'webhook_deliveries', 'webhook_attempts'])
      assert.equal(world.db.rows(`SELECT 1 FROM ${table}`).length, 0, table);
    await world.happen('alias.promoted', 'current', false);
    assert.equal(world.db.rows<WebhookEventRow>('SELECT * FROM webhook_events')[0]?.sequence, 3);
    // One that is still to be sent keeps its event, however old it is.
    await sweepWebhooks(world.d1, time.nowMs + 60 * DAY_MS, 100);
    assert.equal(world.db.rows('SELECT 1 FROM webhook_events').length, 1);
  });
});
