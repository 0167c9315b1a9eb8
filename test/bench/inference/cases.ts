/** What is measured, and what the project promises against whom. */

import type { ServedRequest } from './contender.ts';
import { promptIds } from './model.ts';

export type Case =
  | { readonly kind: 'decode'; readonly id: string; readonly rows: number; readonly context: number }
  | { readonly kind: 'prefill'; readonly id: string; readonly tokens: number }
  | { readonly kind: 'serve'; readonly id: string; readonly requests: number };

export const CASES: readonly Case[] = [
  { kind: 'decode', id: 'decode-b1-128', rows: 1, context: 128 },
  { kind: 'decode', id: 'decode-b8-128', rows: 8, context: 128 },
  { kind: 'decode', id: 'decode-b1-1984', rows: 1, context: 1984 },
  { kind: 'decode', id: 'decode-b8-1984', rows: 8, context: 1984 },
  { kind: 'prefill', id: 'prefill-512', tokens: 512 },
  { kind: 'prefill', id: 'prefill-2048', tokens: 2048 },
  { kind: 'serve', id: 'served-48', requests: 48 },
];

/** Peers as the promises name them; of several formats of one peer, its fastest counts in every case. */
export const GROUPS = ['transformers.js', 'llama.cpp Q4_0', 'PyTorch f32'] as const;
export type Group = (typeof GROUPS)[number] | 'llama.cpp Q8_0' | 'ours';

/** Least ratio of our rate to the peer's, in the order of `CASES`; null = nothing to compare. */
export const BARS: Readonly<Record<(typeof GROUPS)[number], readonly (number | null)[]>> = {
  'transformers.js': [1.5, 2.5, 4.5, 9, 1.1, 1.1, 3.5],
  'llama.cpp Q4_0': [0.85, 1.25, 1.3, 2.3, 1.7, 1.7, 1.5],
  'PyTorch f32': [5, 4, 4.5, 4, 4, 3.5, null],
};

/** Prompts of 32 to 232 tokens, answers of 8 to 64, all different and the same in every run. */
export function mixedRequests(count: number): ServedRequest[] {
  const lengths = promptIds(48, 2 * count);
  return Array.from({ length: count }, (_, i) => ({
    ids: promptIds(1000 + i, 32 + (lengths[2 * i]! % 201)),
    newTokens: 8 + (lengths[2 * i + 1]! % 57),
  }));
}
