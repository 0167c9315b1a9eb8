/**
 * Which prompt gets the step's one unit of prompt work. While others are decoding the chunk is capped, so that a long visual
 * prompt delays a running answer by one chunk, not by its whole length.
 *
 * Interactive prompts go before batch prompts. Among them, even steps serve the oldest and odd steps the one with the least
 * left to do: the first half guarantees progress to a 100-image prompt under any stream of newcomers, the second lets fifty
 * small prompts pass it. A row whose next positions another row is just computing waits for that row, which inherits its
 * priority, unless nobody else has work.
 */
import type { Capacity, PromptWork, ScheduledRequest } from './types.ts';

interface Candidate {
  readonly request: ScheduledRequest;
  readonly rank: number;
}

/** @param running all rows, by precedence; @param busy whether any row decodes in this step */
export function pickPromptWork(
  running: readonly Candidate[],
  busy: boolean,
  step: number,
  capacity: Capacity,
): PromptWork | null {
  const withWork = running.filter(
    ({ request }) => request.stage === 'prefill' && (request.pendingImages > 0 || left(request) > 0),
  );
  if (withWork.length === 0) return null;
  const candidates = withoutSharers(withWork);
  const best = candidates.reduce((least, { rank }) => Math.min(least, rank), Number.POSITIVE_INFINITY);
  const group = candidates.filter(({ rank }) => rank === best).map(({ request }) => request);
  const chosen =
    step % 2 === 0
      ? group[0]!
      : group.reduce((shortest, request) => (left(request) < left(shortest) ? request : shortest));
  if (chosen.pendingImages > 0) {
    const others = candidates.map(({ request }) => request).filter((request) => request !== chosen);
    return { kind: 'encode', items: fillImages([chosen, ...others], capacity) };
  }
  const chunk = busy ? capacity.busyChunkTokens : capacity.idleChunkTokens;
  return { kind: 'prefill', id: chosen.id, tokens: Math.max(1, Math.min(left(chosen), chunk)) };
}

function left(request: ScheduledRequest): number {
  return request.targetTokens - request.heldTokens;
}

/** The rows that wait for no other, with the priorities that they inherit; all rows when every one waits (a circle). */
function withoutSharers(withWork: readonly Candidate[]): readonly Candidate[] {
  const byId = new Map(withWork.map((one) => [one.request.id, one]));
  const ownerOf = ({ request }: Candidate): Candidate | undefined =>
    request.sharesWith === null || request.sharesWith === request.id ? undefined : byId.get(request.sharesWith);
  const ranks = new Map(withWork.map((one) => [one, one.rank]));
  for (const sharer of withWork) {
    let owner = ownerOf(sharer);
    for (let hops = 0; owner !== undefined && hops < withWork.length; hops++) {
      ranks.set(owner, Math.min(ranks.get(owner)!, sharer.rank));
      owner = ownerOf(owner);
    }
  }
  const free = withWork.filter((one) => ownerOf(one) === undefined);
  return (free.length > 0 ? free : withWork).map((one) => ({ request: one.request, rank: ranks.get(one)! }));
}

/** One run of the encoder: the chosen request's images first, then those of the others as far as the run goes. */
function fillImages(order: readonly ScheduledRequest[], capacity: Capacity): { id: string; images: number }[] {
  const items: { id: string; images: number }[] = [];
  let room = Math.max(1, capacity.imagesPerRun);
  for (const { id, pendingImages } of order) {
    const images = Math.min(room, pendingImages);
    if (images < 1) continue;
    items.push({ id, images });
    room -= images;
    if (room === 0) break;
  }
  return items;
}
