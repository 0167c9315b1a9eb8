import type { Env } from '../env.ts';
import { countByStatus, openEvalRuns, slotsOverdueMs, webhookBacklog } from '../store/operations.ts';
import { viewFleet } from './fleet.ts';
import type { Gauge } from './recorder.ts';

/** Scrapers that come more often see the same numbers: a scrape must not be a way to keep the database busy. */
const CACHE_MS = 1_000;

let cached: { gauges: Gauge[]; untilMs: number } | null = null;

/** Levels of the moment. A part that cannot be asked is left out and counted in `scrape_errors`, so that the others are still told. */
export async function readGauges(env: Env): Promise<Gauge[]> {
  const nowMs = Date.now();
  if (cached !== null && cached.untilMs > nowMs) return cached.gauges;
  const parts = await Promise.allSettled([fleetGauges(env), jobGauges(env), scheduleGauges(env), webhookGauges(env)]);
  const gauges = parts.flatMap((part) => (part.status === 'fulfilled' ? part.value : []));
  const failed = parts.filter(({ status }) => status === 'rejected').length;
  gauges.push(single('scrape_errors', 'Parts of the installation that could not be asked in this scrape.', failed));
  cached = { gauges, untilMs: nowMs + CACHE_MS };
  return gauges;
}

function levels(name: string, help: string, label: string, counts: Readonly<Record<string, number>>): Gauge {
  return {
    name,
    help,
    values: Object.entries(counts).map(([text, value]) => ({ labels: { [label]: text }, value })),
  };
}

function single(name: string, help: string, value: number): Gauge {
  return { name, help, values: [{ labels: {}, value }] };
}

/** What the fleet counts itself, since its object began. */
const COUNTS = [
  ['asks', 'fleet_asks_total', 'Attempts that asked for a backend.'],
  ['grants', 'fleet_grants_total', 'Attempts that were given one.'],
  ['retries', 'fleet_retries_total', 'Attempts beyond the first of a request.'],
  ['refusals', 'fleet_refusals_total', 'Attempts that were refused or given up before they had a backend.'],
  ['affinityAsks', 'affinity_queries_total', 'Attempts whose pictures or prompt some backend may know.'],
  ['affinityHits', 'affinity_hits_total', 'Of these, the ones that went to that backend.'],
  ['breakerOpened', 'breaker_opened_total', 'Times a backend was taken out for its failures.'],
] as const;

async function fleetGauges(env: Env): Promise<Gauge[]> {
  const { backends, queue, counts, replicasDesired } = await viewFleet(env);
  const tally = <K extends string>(names: readonly K[], of: (backend: (typeof backends)[number]) => K) =>
    Object.fromEntries(names.map((name) => [name, backends.filter((backend) => of(backend) === name).length]));
  const here = backends.filter(({ state }) => state !== 'gone');
  return [
    levels(
      'backends',
      'Backends by state.',
      'state',
      tally(['ready', 'draining', 'gone'], ({ state }) => state),
    ),
    levels(
      'breakers',
      'Circuit breakers of backends by state.',
      'state',
      tally(['closed', 'open', 'half_open'], ({ breaker }) => breaker),
    ),
    single('num_requests_running', 'Answers that backends work on.', sum(here.map(({ inFlight }) => inFlight))),
    single('capacity', 'Answers that backends work on well at once.', sum(here.map(({ capacity }) => capacity))),
    levels('num_requests_waiting', 'Requests that wait for a backend, by priority.', 'priority', {
      interactive: queue.interactive,
      batch: queue.batch,
    }),
    single('queue_length', 'Requests that wait for a backend.', queue.length),
    single('queue_oldest_wait_seconds', 'How long the first of them has waited.', queue.oldestWaitMs / 1000),
    ...COUNTS.map(([kind, name, help]) => ({ ...single(name, help, counts[kind] ?? 0), type: 'counter' as const })),
    ...(replicasDesired === null
      ? []
      : [single('replicas_desired', 'Backends that there should be.', replicasDesired)]),
  ];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

async function jobGauges(env: Env): Promise<Gauge[]> {
  const [jobs, batches, runs] = await Promise.all([
    countByStatus(env.DB, 'jobs'),
    countByStatus(env.DB, 'batches'),
    openEvalRuns(env.DB, Date.now()),
  ]);
  return [
    levels('eval_runs', 'Runs of evaluations that have not ended, by status.', 'status', {
      queued: runs.queued,
      in_progress: runs.running,
    }),
    single(
      'eval_runs_oldest_wait_seconds',
      'How long the oldest run that waits was last worked on, or made.',
      runs.oldestWaitMs / 1000,
    ),
    levels('jobs', 'Fine-tuning jobs by status.', 'status', { queued: 0, running: 0, ...jobs }),
    levels('batches', 'Batches by status.', 'status', { in_progress: 0, ...batches }),
  ];
}

async function scheduleGauges(env: Env): Promise<Gauge[]> {
  const [runs, overdueMs] = await Promise.all([
    countByStatus(env.DB, 'schedule_runs'),
    slotsOverdueMs(env.DB, Date.now()),
  ]);
  return [
    levels('schedule_runs', 'Kept records of schedules’ runs by status.', 'status', {
      pending: 0,
      running: 0,
      ...runs,
    }),
    single(
      'schedule_overdue_seconds',
      'How long the oldest slot that nobody has decided has been due.',
      overdueMs / 1000,
    ),
  ];
}

async function webhookGauges(env: Env): Promise<Gauge[]> {
  const { waiting, overdueMs } = await webhookBacklog(env.DB, Date.now());
  return [
    single('webhook_backlog', 'Webhook deliveries that are still to be made.', waiting),
    single('webhook_overdue_seconds', 'How long the oldest of them has been due.', overdueMs / 1000),
  ];
}
