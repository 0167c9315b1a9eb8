import type { BackendReport } from '../../shared/contract/backend.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { ModelCard } from '../../shared/contract/models.ts';
import { allows, type Breaker, breakerState } from './breaker.ts';

const F = LIMITS.fleet;

/** A backend as the fleet knows it: its last report and when it came, Unix ms. */
export type Backend = { report: BackendReport; seenAtMs: number };

/** What the dispatcher knows of a backend beyond its report. */
export type Place = {
  report: BackendReport;
  seenAtMs: number;
  /** When it joined, or came back after the breaker: the start of its slow start. */
  since: number;
  /** Nobody answered at its address; so until its next report. */
  isUnreachable: boolean;
  /** It is to end, and is sent nothing more. */
  isRetiring: boolean;
  /** It said that it is full. */
  busyUntilMs: number;
  breaker: Breaker;
  /** Answers being worked on, and their cost in decoder positions. */
  rows: number;
  cost: number;
};

/** What is looked for. */
export type Wanted = {
  /** Base model. */
  model: string;
  /** Fine-tune laid over it; backends that have it ready are preferred. */
  tuned: string | null;
  /** Requests with the same key go to the same backend while it has room: its caches know their pictures. */
  affinity: string | null;
  /** Answers (choices) of the request. */
  rows: number;
  /** Decoder positions, image tokens included. */
  cost: number;
  exclude: ReadonlySet<string>;
  /** Share of its places that a backend must keep free, 0 … 1. */
  reserve: number;
};

/** Backends that are still heard of. */
export function alive<T extends { seenAtMs: number }>(backends: readonly T[], nowMs: number, goneAfterMs: number): T[] {
  return backends.filter(({ seenAtMs }) => nowMs - seenAtMs <= goneAfterMs);
}

/** Whether it serves the model and may be sent requests, room aside. */
export function canServe(place: Place, model: string, nowMs: number): boolean {
  return (
    place.report.state === 'ready' &&
    !place.isUnreachable &&
    !place.isRetiring &&
    nowMs - place.seenAtMs <= LIMITS.backends.goneAfterMs &&
    place.report.models.some(({ id }) => id === model)
  );
}

/**
 * The backend for one request, or null while none has room. Of those that are ready, serve the model, are let through by their breaker and have a
 * place free: the one that by its caches (fine-tune ready, same pictures as before) comes first and is not loaded beyond `affinitySlack` over its
 * share (consistent hashing with bounded loads, Mirrokni et al. 2016, with rendezvous hashing); else the least loaded.
 * @param roll in [0, 1), breaks ties
 */
export function pick(places: readonly Place[], wanted: Wanted, nowMs: number, roll: number): Place | null {
  const serving = places.filter((place) => canServe(place, wanted.model, nowMs));
  // With most of them out, leaving them out would only drown the rest, or leave nobody (as Envoy's panic threshold).
  const closed = serving.filter(({ breaker }) => breakerState(breaker, nowMs) === 'closed').length;
  const isPanic = closed < serving.length * F.breakerPanicShare;
  const able = serving.filter(
    (place) =>
      !wanted.exclude.has(place.report.id) &&
      place.busyUntilMs <= nowMs &&
      (isPanic || allows(place.breaker, nowMs)) &&
      hasRoom(place, wanted),
  );
  if (able.length <= 1) return able[0] ?? null;
  const key = wanted.affinity ?? wanted.tuned;
  if (key !== null) {
    // Their share is counted over all that serve the model, full ones included.
    const total = serving.reduce((sum, { cost }) => sum + cost, wanted.cost);
    const strength = serving.reduce((sum, place) => sum + weight(place, nowMs), 0);
    const order = able
      .map((place) => ({ place, isReady: isTunedReady(place, wanted.tuned), hash: fnv1a(`${key}|${place.report.id}`) }))
      .sort((a, b) => Number(b.isReady) - Number(a.isReady) || b.hash - a.hash);
    for (const { place } of order) {
      const share = (weight(place, nowMs) / strength) * total;
      const isHardlyBusy = place.rows + wanted.rows <= place.report.capacity * F.affinityFreeShare;
      if (isHardlyBusy || place.cost + wanted.cost <= (1 + F.affinitySlack) * share) return place;
    }
  }
  const load = (place: Place) => (place.cost + wanted.cost) / weight(place, nowMs);
  const least = Math.min(...able.map(load));
  const best = able.filter((place) => load(place) <= least);
  return best[Math.floor(roll * best.length)] ?? null;
}

/** An idle backend takes anything, also more choices than it has places. */
function hasRoom({ rows, report }: Place, wanted: Wanted): boolean {
  return rows === 0 || rows + wanted.rows <= report.capacity * (1 - wanted.reserve);
}

/** Places, fewer at first: 10 % growing to all over `slowStartMs`. Only compared between backends, so a lone one is not held back. */
function weight({ report, since }: Place, nowMs: number): number {
  const warm = Math.min(1, Math.max(0.1, (nowMs - since) / F.slowStartMs));
  return Math.max(1, report.capacity) * warm;
}

function isTunedReady({ report }: Place, tuned: string | null): boolean {
  return tuned !== null && report.tuned?.includes(tuned) === true;
}

/** FNV-1a, 32 bits, finished as MurmurHash3 does so that near keys land far apart. */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** Every base model some live backend serves, by id; the first report wins where two differ. */
export function servedModels(backends: readonly Pick<Backend, 'report'>[]): Map<string, ModelCard> {
  const cards = new Map<string, ModelCard>();
  for (const { report } of backends) {
    for (const card of report.models) if (!cards.has(card.id)) cards.set(card.id, card);
  }
  return cards;
}
