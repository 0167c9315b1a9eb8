import type { BackendReport } from '../../shared/contract/backend.ts';
import type { ModelCard } from '../../shared/contract/models.ts';

/** A backend as the fleet knows it: its last report and when it came, Unix ms. */
export type Backend = { report: BackendReport; seenAtMs: number };

/** Backends that are still heard of. */
export function alive(backends: readonly Backend[], nowMs: number, goneAfterMs: number): Backend[] {
  return backends.filter(({ seenAtMs }) => nowMs - seenAtMs <= goneAfterMs);
}

/**
 * The backend for one request: ready, serving `model`, not among those that already failed it; of these the one with the smallest share of its
 * capacity in use, equals broken by `roll` in [0, 1).
 */
export function pick(
  backends: readonly Backend[],
  request: { model: string; exclude: ReadonlySet<string>; roll: number },
): BackendReport | null {
  const able = backends
    .map(({ report }) => report)
    .filter(
      (report) =>
        report.state === 'ready' &&
        !request.exclude.has(report.id) &&
        report.models.some(({ id }) => id === request.model),
    );
  const load = (report: BackendReport) => report.inFlight / Math.max(report.capacity, 1);
  const least = Math.min(...able.map(load));
  const best = able.filter((report) => load(report) <= least);
  return best[Math.floor(request.roll * best.length)] ?? null;
}

/** Every base model some live backend serves, by id; the first report wins where two differ. */
export function servedModels(backends: readonly Backend[]): Map<string, ModelCard> {
  const cards = new Map<string, ModelCard>();
  for (const { report } of backends) {
    for (const card of report.models) if (!cards.has(card.id)) cards.set(card.id, card);
  }
  return cards;
}
