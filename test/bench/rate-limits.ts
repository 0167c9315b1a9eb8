/**
 * Limits of keys: how exact they are for a hundred tenants behind sixteen edges, under a virtual clock, and what asking costs a real request.
 * `npm run bench -- rate-limits [--minutes 10] [--requests 400]`. Ends with one line of JSON.
 */
import { parseArgs } from 'node:util';
import { rateLimitHeaders } from '../../edge/limits/headers.ts';
import { LimiterState } from '../../edge/limits/limiter.ts';
import { UNLIMITED } from '../../edge/limits/settings.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { FAULT_CARD, FaultBackend } from '../wire/edge/fault-backend.ts';
import { API_KEY, startInstallation } from '../wire/edge/installation.ts';

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '10' }, requests: { type: 'string', default: '400' } },
});
const accuracy = simulate(Number(values.minutes));
const added = await measure(Number(values.requests));

console.log(
  `${accuracy.tenants} tenants x ${accuracy.minutes} min: ${accuracy.asked} requests, at most ${accuracy.worstShare.toFixed(4)} of a limit in any minute, ${accuracy.refusedCompliant} refusals of who complied`,
);
console.log(`asking adds ${added.p50Ms.toFixed(2)} ms in the median, ${added.p99Ms.toFixed(2)} ms p99`);
const ok = accuracy.worstShare <= 1.02 && accuracy.refusedCompliant === 0 && accuracy.wrongHeaders === 0;
console.log(JSON.stringify({ bench: 'rate-limits', ...accuracy, added, ok }));
process.exitCode = ok ? 0 : 1;

/**
 * Half of the tenants send what they may, at the worst times (all of it at once, each minute); half send ten times that at random. Each request comes from
 * one of sixteen edges, some milliseconds late, and runs for a while.
 */
function simulate(minutes: number) {
  const tenants = 100;
  const edges = 16;
  const windowMs = LIMITS.rates.windowMs;
  let asked = 0;
  let refusedCompliant = 0;
  let worstShare = 0;
  let wrongHeaders = 0;
  for (let tenant = 0; tenant < tenants; tenant++) {
    const random = generator(tenant + 1);
    const isCompliant = tenant % 2 === 0;
    const requestsPerMinute = 10 + Math.floor(random() * 290);
    const tokensEach = 1 + Math.floor(random() * 2_000);
    const imageTokensPerMinute = isCompliant ? requestsPerMinute * tokensEach : requestsPerMinute * 500;
    const concurrent = isCompliant ? requestsPerMinute : 8;
    const limits = { ...UNLIMITED, requestsPerMinute, imageTokensPerMinute, concurrent };
    const latesMs = Array.from({ length: edges }, () => random() * 20);
    const arrivals: { atMs: number; tokens: number }[] = [];
    for (let minute = 0; minute < minutes; minute++) {
      const count = isCompliant ? requestsPerMinute : 10 * requestsPerMinute;
      for (let i = 0; i < count; i++) {
        const late = latesMs[Math.floor(random() * edges)] ?? 0;
        // A burst that returns a hair after the window of the one before.
        const atMs = isCompliant ? minute * (windowMs + 25) + late : (minute + random()) * windowMs;
        arrivals.push({ atMs, tokens: isCompliant ? tokensEach : 1 + Math.floor(random() * 1_000) });
      }
    }
    arrivals.sort((a, b) => a.atMs - b.atMs);
    const state = new LimiterState(LIMITS.rates);
    const admitted: { atMs: number; tokens: number }[] = [];
    let running: { id: string; endMs: number }[] = [];
    for (const { atMs, tokens } of arrivals) {
      asked++;
      for (const slot of running.filter(({ endMs }) => endMs <= atMs)) state.release('k', slot.id);
      running = running.filter(({ endMs }) => endMs > atMs);
      const id = String(asked);
      const cost = { requests: 1, images: 0, imageTokens: tokens, bytes: 0 };
      const slot = { id, leaseMs: LIMITS.rates.leaseMs };
      const { refusal, standings } = state.admit('k', limits, cost, atMs, { slot });
      const headers = rateLimitHeaders(standings);
      const remaining = Number(headers['x-ratelimit-remaining-requests']);
      if (!(remaining >= 0 && remaining <= requestsPerMinute)) wrongHeaders++;
      if (refusal === null) {
        admitted.push({ atMs, tokens });
        running.push({ id, endMs: atMs + random() * 2_000 });
        worstShare = Math.max(worstShare, running.length / concurrent);
      } else if (isCompliant) refusedCompliant++;
      else if (refusal.name === 'requestsPerMinute' && remaining !== 0) wrongHeaders++;
    }
    let from = 0;
    let requests = 0;
    let sum = 0;
    for (const { atMs, tokens } of admitted) {
      requests++;
      sum += tokens;
      for (; (admitted[from]?.atMs ?? 0) <= atMs - windowMs; from++) {
        requests--;
        sum -= admitted[from]?.tokens ?? 0;
      }
      worstShare = Math.max(worstShare, requests / requestsPerMinute, sum / imageTokensPerMinute);
    }
  }
  return { tenants, edges, minutes, asked, worstShare, refusedCompliant, wrongHeaders };
}

/** Mulberry32: the same tenants each time. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** One request after the other at the real door, with and without limits in turn: a refusal by a model that nobody serves costs no backend. */
async function measure(requests: number) {
  const door = await startInstallation();
  const backend = await FaultBackend.join(door);
  const made = await door.call('POST', '/v1/admin/keys', {
    name: 'limited',
    limits: {
      requestsPerMinute: 1_000_000,
      imagesPerMinute: 1_000_000,
      imageTokensPerMinute: 1_000_000,
      concurrent: 1_000,
    },
  });
  const { secret } = made.body as { secret: string };
  const times: Record<'free' | 'limited', number[]> = { free: [], limited: [] };
  const body = { model: FAULT_CARD.id, messages: [{ role: 'user', content: 'x' }] };
  for (let i = -20; i < requests; i++) {
    for (const [kind, key] of [
      ['free', API_KEY],
      ['limited', secret],
    ] as const) {
      const startMs = performance.now();
      const { status } = await door.call('POST', '/v1/chat/completions', body, { authorization: `Bearer ${key}` });
      if (status !== 200) throw new Error(`expected 200, received ${status}`);
      if (i >= 0) times[kind].push(performance.now() - startMs);
    }
  }
  await backend.close();
  await door.close();
  const at = (kind: 'free' | 'limited', share: number) =>
    [...times[kind]].sort((a, b) => a - b)[Math.floor(share * requests)] ?? 0;
  return { requests, p50Ms: at('limited', 0.5) - at('free', 0.5), p99Ms: at('limited', 0.99) - at('free', 0.99) };
}
