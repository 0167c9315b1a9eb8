import type { Env } from '../env.ts';
import { liveBackends } from '../fleet/registry.ts';
import { countJobs, webhookBacklog } from '../store/operations.ts';
import type { Gauge } from './recorder.ts';

/** Scrapers that come more often see the same numbers: a scrape must not be a way to keep the database busy. */
const CACHE_MS = 2_000;

let cached: { gauges: Gauge[]; untilMs: number } | null = null;

/** Levels of the moment. A part that cannot be asked is left out and counted in `scrape_errors`, so that the others are still told. */
export async function readGauges(env: Env): Promise<Gauge[]> {
  const nowMs = Date.now();
  if (cached !== null && cached.untilMs > nowMs) return cached.gauges;
  const parts = await Promise.allSettled([fleetGauges(env), jobGauges(env), webhookGauges(env)]);
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

async function fleetGauges(env: Env): Promise<Gauge[]> {
  const backends = await liveBackends(env, true);
  const counts: Record<string, number> = { ready: 0, draining: 0 };
  let inFlight = 0;
  let capacity = 0;
  for (const { report } of backends) {
    counts[report.state] = (counts[report.state] ?? 0) + 1;
    inFlight += report.inFlight;
    if (report.state === 'ready') capacity += report.capacity;
  }
  return [
    levels('backends', 'Backends by state.', 'state', counts),
    single('num_requests_running', 'Requests on backends.', inFlight),
    single('capacity', 'Requests that ready backends take at once.', capacity),
  ];
}

async function jobGauges(env: Env): Promise<Gauge[]> {
  const counts = await countJobs(env.DB);
  return [levels('jobs', 'Fine-tuning jobs by status.', 'status', { queued: 0, running: 0, ...counts })];
}

async function webhookGauges(env: Env): Promise<Gauge[]> {
  const { waiting, overdueMs } = await webhookBacklog(env.DB, Date.now());
  return [
    single('webhook_backlog', 'Webhook deliveries that are still to be made.', waiting),
    single('webhook_overdue_seconds', 'How long the oldest of them has been due.', overdueMs / 1000),
  ];
}
