import type { Env } from '../env.ts';
import { parseAllowList, type Target } from './target.ts';

/** The way out for calls whose address a client chose. */
export type Egress = {
  /** `host:port`s that are reached although private. */
  allowed: ReadonlySet<string>;
  /** Refuses private peers when it connects, after the name was resolved; undefined on the platform, whose Workers have no private routes. */
  network: Fetcher | undefined;
};

export function egressOf(env: Pick<Env, 'EGRESS_ALLOW' | 'PUBLIC_NETWORK'>): Egress {
  return { allowed: parseAllowList(env.EGRESS_ALLOW), network: env.PUBLIC_NETWORK };
}

/** One hop to a target that `checkTarget` let pass; redirects are answers like any other. Rejects where no connection comes about. */
export function fetchTarget(
  { network }: Egress,
  target: Target,
  init: Omit<RequestInit, 'redirect'>,
): Promise<Response> {
  const manual = { ...init, redirect: 'manual' as const };
  return target.network === 'public' && network !== undefined
    ? network.fetch(target.url.href, manual)
    : fetch(target.url.href, manual);
}
