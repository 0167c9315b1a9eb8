/**
 * What schedules should do, written from their description and not from their code: slots by going through every minute on the zone's own wall clock, and
 * policies over the list of moments at which somebody looked.
 */
const MINUTE = 60_000;
const LATE_MS = 5 * MINUTE;
const MOST_CATCH_UP = 24;

export type Effect = { slotMs: number; kind: 'run' | 'missed'; missed: number; missedFromMs: number | null };

/** All slots in a span, by asking of each minute whether the wall clock shows what the expression says. */
export function slotsByWallClock(expression: string, zone: string, fromMs: number, untilMs: number): number[] {
  const [minute = '*', hour = '*', day = '*', month = '*', weekday = '*'] = expression.split(' ');
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    weekday: 'short',
  });
  const names = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
  const isFixed = /^\d+$/.test(minute) && /^\d+$/.test(hour);
  const slots: number[] = [];
  const seenWall = new Set<string>();
  for (let at = Math.ceil((fromMs + 1) / MINUTE) * MINUTE; at <= untilMs; at += MINUTE) {
    const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
    const matches =
      fits(minute, Number(parts.minute)) &&
      fits(hour, Number(parts.hour)) &&
      fits(month, Number(parts.month)) &&
      fits(day, Number(parts.day)) &&
      fits(weekday, names.indexOf(parts.weekday ?? ''));
    if (!matches) continue;
    const wall = `${parts.year}-${parts.month}-${parts.day} ${parts.hour}:${parts.minute}`;
    // A wall time that comes twice counts once where the expression names it.
    if (isFixed && seenWall.has(wall)) continue;
    seenWall.add(wall);
    slots.push(at);
  }
  return slots;
}

function fits(field: string, value: number): boolean {
  return field.split(',').some((part) => {
    const [range = '*', step = '1'] = part.split('/');
    if (range === '*') return value % Number(step) === 0;
    const [low = '0', high = low] = range.split('-');
    return value >= Number(low) && value <= Number(high) && (value - Number(low)) % Number(step) === 0;
  });
}

/** What comes of looking at these moments, in this order; no run ever lasts. */
export function effectsOf(
  slots: readonly number[],
  misfire: 'run_once' | 'skip' | 'run_all',
  looks: readonly number[],
): Effect[] {
  const effects: Effect[] = [];
  let done = 0;
  for (const now of looks) {
    const due: number[] = [];
    while (done < slots.length && (slots[done] as number) <= now) due.push(slots[done++] as number);
    const late = due.filter((slot) => now - slot > LATE_MS);
    const fresh = due.filter((slot) => now - slot <= LATE_MS);
    const run = (slotMs: number): Effect => ({ slotMs, kind: 'run', missed: 0, missedFromMs: null });
    const together = (all: number[], kind: Effect['kind']): Effect[] =>
      all.length === 0
        ? []
        : [
            {
              slotMs: all.at(-1) as number,
              kind,
              missed: all.length - 1,
              missedFromMs: all.length > 1 ? (all[0] as number) : null,
            },
          ];
    if (late.length === 0) effects.push(...fresh.map(run));
    else if (misfire === 'run_once') effects.push(...together(due, 'run'));
    else if (misfire === 'skip') effects.push(...together(late, 'missed'), ...fresh.map(run));
    else {
      const cut = Math.max(0, due.length - MOST_CATCH_UP);
      effects.push(...together(due.slice(0, cut), 'missed'), ...due.slice(cut).map(run));
    }
  }
  return effects;
}
