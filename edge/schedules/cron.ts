/**
 * When a schedule is due. Cron expressions are read in their time zone as Vixie cron does where clocks change: a fixed time that a spring night leaves
 * out comes right after the gap (02:30 → 03:00), one that an autumn night has twice comes the first time only, and wildcards (every hour, every 15
 * minutes) follow real time, so an hour that is repeated has its slots twice and one that is left out has none.
 */
import { Cron } from 'croner';
import { ApiError, describe, violation } from '../../shared/contract/errors.ts';

/** One of both: a cron expression with its zone, or a single moment, Unix ms. */
export type Timing = { cron: string; timeZone: string } | { atMs: number };

const compiled = new Map<string, Cron>();
const MAX_COMPILED = 500;

/** @throws Error for an expression or a zone that cannot be read */
function compile(cron: string, timeZone: string): Cron {
  const key = `${timeZone} ${cron}`;
  const known = compiled.get(key);
  if (known !== undefined) return known;
  const made = new Cron(cron, { timezone: timeZone, mode: '5-part', paused: true });
  if (compiled.size >= MAX_COMPILED) compiled.clear();
  compiled.set(key, made);
  return made;
}

/** The first slot after `afterMs`, Unix ms; null where there is none any more. */
export function nextSlot(timing: Timing, afterMs: number): number | null {
  if ('atMs' in timing) return timing.atMs > afterMs ? timing.atMs : null;
  // Slots are whole minutes: the library cuts a reference to whole seconds.
  return (
    compile(timing.cron, timing.timeZone)
      .nextRun(new Date(Math.floor(afterMs / 1000) * 1000))
      ?.getTime() ?? null
  );
}

/** The last `count` slots up to `untilMs`, in order; fewer where there were fewer. */
export function lastSlots(timing: Timing, untilMs: number, count: number): number[] {
  if ('atMs' in timing) return timing.atMs <= untilMs ? [timing.atMs] : [];
  // The reference itself is not included.
  const reference = new Date(Math.floor(untilMs / 1000) * 1000 + 1000);
  return compile(timing.cron, timing.timeZone)
    .previousRuns(count, reference)
    .map((at) => at.getTime())
    .reverse();
}

/** The first `count` slots after `afterMs`. */
export function nextSlots(timing: Timing, afterMs: number, count: number): number[] {
  const slots: number[] = [];
  for (let at = nextSlot(timing, afterMs); at !== null && slots.length < count; at = nextSlot(timing, at))
    slots.push(at);
  return slots;
}

/**
 * Refuses what can never be due.
 * @throws ApiError `invalid_value` naming the field
 */
export function checkTiming(timing: Timing, atMs: number): void {
  if ('atMs' in timing) {
    if (timing.atMs > atMs) return;
    const seconds = timing.atMs / 1000;
    throw ApiError.from([
      violation('invalid_value', 'at', {
        expected: `a time after now (${Math.floor(atMs / 1000)})`,
        received: seconds,
        remedy: 'Unix seconds; POST …/run starts a run at once.',
      }),
    ]);
  }
  const { cron, timeZone } = timing;
  if (!isZone(timeZone))
    throw ApiError.from([
      violation('invalid_value', 'time_zone', {
        expected: 'an IANA time zone such as "Europe/Berlin"',
        received: describe(timeZone),
      }),
    ]);
  let next: number | null;
  try {
    next = nextSlot(timing, atMs);
  } catch (error) {
    const why = (error instanceof Error ? error.message : String(error)).replace(/^Cron\w+: /, '').replace(/\.$/, '');
    throw ApiError.from([
      violation('invalid_value', 'cron', {
        expected: 'minute hour day month weekday, or @hourly, @daily, @weekly, @monthly, @yearly',
        received: describe(cron),
        remedy: `What is wrong: ${why}.`,
      }),
    ]);
  }
  if (next === null)
    throw ApiError.from([
      violation('invalid_value', 'cron', {
        expected: 'an expression that comes true some day',
        received: describe(cron),
      }),
    ]);
}

function isZone(timeZone: string): boolean {
  try {
    new Intl.DateTimeFormat('en-GB', { timeZone });
    return !/^[+-]/.test(timeZone);
  } catch {
    return false;
  }
}

/** `2027-03-28 03:00 GMT+2`, in the schedule's zone. */
export function localTime(atMs: number, timeZone: string): string {
  const parts = new Intl.DateTimeFormat('en-GB', {
    timeZone,
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
    timeZoneName: 'shortOffset',
  }).formatToParts(new Date(atMs));
  const of = (type: string) => parts.find((part) => part.type === type)?.value ?? '';
  return `${of('year')}-${of('month')}-${of('day')} ${of('hour')}:${of('minute')} ${of('timeZoneName')}`;
}
