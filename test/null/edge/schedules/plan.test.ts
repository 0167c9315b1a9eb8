import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  checkTiming,
  lastSlots,
  localTime,
  nextSlot,
  nextSlots,
  type Timing,
} from '../../../../edge/schedules/cron.ts';
import { type PlannedSchedule, planSlots } from '../../../../edge/schedules/plan.ts';
import { LIMITS } from '../../../../shared/contract/limits.ts';

const utc = (text: string) => Date.parse(`${text}Z`);
const iso = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString().slice(0, 16));
const cron = (expression: string, timeZone = 'UTC'): Timing => ({ cron: expression, timeZone });
const every5 = (more: Partial<PlannedSchedule> = {}): PlannedSchedule => ({
  timing: cron('*/5 * * * *'),
  overlap: 'allow',
  misfire: 'run_once',
  decidedUntilMs: utc('2026-11-26T12:00'),
  ...more,
});

test('a fixed time that a spring night leaves out comes right after the gap, once', () => {
  const slots = nextSlots(cron('30 2 * * *', 'Europe/Berlin'), utc('2027-03-26T12:00'), 3);
  assert.deepEqual(slots.map(iso), ['2027-03-27T01:30', '2027-03-28T01:00', '2027-03-29T00:30']);
  assert.equal(localTime(slots[1] as number, 'Europe/Berlin'), '2027-03-28 03:00 GMT+2');
});

test('a fixed time that an autumn night has twice comes the first time only', () => {
  const slots = nextSlots(cron('30 2 * * *', 'Europe/Berlin'), utc('2026-10-24T12:00'), 2);
  assert.deepEqual(slots.map(iso), ['2026-10-25T00:30', '2026-10-26T01:30']);
});

test('wildcards follow real time through both', () => {
  const autumn = nextSlots(cron('0 * * * *', 'Europe/Berlin'), utc('2026-10-24T22:30'), 5);
  assert.deepEqual(
    autumn.map((ms) => iso(ms)?.slice(11)),
    ['23:00', '00:00', '01:00', '02:00', '03:00'],
  );
  const spring = nextSlots(cron('*/30 * * * *', 'Europe/Berlin'), utc('2027-03-28T00:00'), 4);
  assert.deepEqual(
    spring.map((ms) => iso(ms)?.slice(11)),
    ['00:30', '01:00', '01:30', '02:00'],
  );
});

test('looking back finds the slots that looking ahead finds', () => {
  for (const zone of ['Europe/Berlin', 'America/New_York', 'Asia/Kathmandu'])
    for (const expression of ['*/7 1-4 * * *', '30 2 * * *', '0 0 1 * *', '15 */3 * * 1-5']) {
      const timing = cron(expression, zone);
      for (const from of ['2026-10-20T00:00', '2027-03-10T00:00']) {
        const ahead = nextSlots(timing, utc(from), 200);
        const until = ahead.at(-1) as number;
        assert.deepEqual(lastSlots(timing, until, 200).map(iso), ahead.map(iso), `${expression} ${zone}`);
      }
    }
});

test('what can never be due, or cannot be read, is refused by name', () => {
  const now = utc('2026-11-26T12:00');
  for (const [timing, words] of [
    [cron('0 0 30 2 *'), /cron: expected an expression that comes true/],
    [cron('61 * * * *'), /cron: expected minute hour day month weekday.*minute/],
    [cron('* * * * * *'), /cron: .*exactly 5 parts/],
    [cron('* * * * *', 'Mars/Base'), /time_zone: expected an IANA time zone/],
    [cron('* * * * *', '+02:00'), /time_zone: expected an IANA time zone/],
    [{ atMs: now }, /at: expected a time after now/],
  ] as const)
    assert.throws(() => checkTiming(timing, now), words);
  checkTiming(cron('@daily', 'Europe/Berlin'), now);
  checkTiming({ atMs: now + 1 }, now);
});

test('each slot that is in time has its run, and the next one is known', () => {
  const plan = planSlots(every5(), 0, utc('2026-11-26T12:05'));
  assert.deepEqual(plan.runs, [{ slotMs: utc('2026-11-26T12:05'), skip: null, missed: 0, missedFromMs: null }]);
  assert.equal(iso(plan.decidedUntilMs), '2026-11-26T12:05');
  assert.equal(iso(plan.nextAtMs), '2026-11-26T12:10');
});

test('nothing is due before its time, nor again, nor when the clock goes back', () => {
  for (const now of ['2026-11-26T12:04:59', '2026-11-26T11:00', '1999-01-01T00:00']) {
    const plan = planSlots(every5(), 0, utc(now));
    assert.deepEqual(plan.runs, []);
    assert.equal(iso(plan.decidedUntilMs), '2026-11-26T12:00');
  }
});

test('run_once: one run for an outage, standing for all slots of it', () => {
  const plan = planSlots(every5(), 0, utc('2026-11-26T14:02'));
  assert.deepEqual(plan.runs, [
    { slotMs: utc('2026-11-26T14:00'), skip: null, missed: 23, missedFromMs: utc('2026-11-26T12:05') },
  ]);
});

test('skip: an outage is recorded, what is in time runs', () => {
  const { runs } = planSlots(every5({ misfire: 'skip' }), 0, utc('2026-11-26T14:02'));
  assert.deepEqual(
    runs.map(({ slotMs, skip, missed }) => [iso(slotMs)?.slice(11), skip, missed]),
    [
      ['13:55', 'misfire', 22],
      ['14:00', null, 0],
    ],
  );
});

test('run_all: at most 24 runs are made up for, the older slots are recorded', () => {
  const { runs } = planSlots(every5({ misfire: 'run_all' }), 0, utc('2026-11-29T12:00'));
  const starting = runs.filter(({ skip }) => skip === null);
  assert.equal(starting.length, LIMITS.schedules.maxCatchUp);
  assert.deepEqual(runs[0]?.skip, 'misfire');
  assert.equal((runs[0]?.missed ?? 0) + 1 + starting.length, 3 * 288, 'no slot is forgotten');
});

test('an outage of years is planned in no time, and its count is a lower bound', () => {
  const schedule = every5({ timing: cron('* * * * *', 'Europe/Berlin'), misfire: 'run_all' });
  const plan = planSlots(schedule, 0, utc('2029-11-26T12:00'));
  assert.equal(plan.runs.length, 1 + LIMITS.schedules.maxCatchUp);
  assert.equal(iso(plan.runs.at(-1)?.slotMs ?? null), '2029-11-26T12:00');
  assert.ok((plan.runs[0]?.missed ?? 0) >= LIMITS.schedules.maxCountedMisses - 100);
  assert.equal(iso(plan.nextAtMs), '2029-11-26T12:01');
});

test('overlap: skip records the slot, queue lets one wait, allow lets all run', () => {
  const now = utc('2026-11-26T12:05');
  const skipped = (overlap: PlannedSchedule['overlap'], open: number) =>
    planSlots(every5({ overlap }), open, now).runs.map(({ skip }) => skip);
  assert.deepEqual([skipped('skip', 0), skipped('skip', 1)], [[null], ['overlap']]);
  assert.deepEqual([skipped('queue', 0), skipped('queue', 1), skipped('queue', 2)], [[null], [null], ['overlap']]);
  assert.deepEqual([skipped('allow', 0), skipped('allow', 9)], [[null], [null]]);
});

test('two slots that are seen together overlap as if they had been seen apart', () => {
  const schedule = every5({ timing: cron('* * * * *'), overlap: 'skip' });
  const { runs } = planSlots(schedule, 0, utc('2026-11-26T12:02'));
  assert.deepEqual(
    runs.map(({ skip }) => skip),
    [null, 'overlap'],
  );
});

test('what run_all makes up for waits its turn, whatever the overlap policy', () => {
  const { runs } = planSlots(every5({ misfire: 'run_all', overlap: 'skip' }), 1, utc('2026-11-26T13:02'));
  assert.deepEqual(
    runs.map(({ skip }) => skip),
    [...Array.from({ length: 11 }, () => null), 'overlap'],
  );
});

test('a single time is due once', () => {
  const at = utc('2026-11-26T18:00');
  const first = planSlots(every5({ timing: { atMs: at } }), 0, at + 1);
  assert.deepEqual([first.runs.length, first.nextAtMs, first.decidedUntilMs], [1, null, at]);
  assert.deepEqual(planSlots(every5({ timing: { atMs: at }, decidedUntilMs: at }), 0, at + 9).runs, []);
  assert.equal(nextSlot({ atMs: at }, at), null);
});
