/** Whether a new model takes an alias over: a pure rule over a paired comparison, said with its numbers. */

import type { Comparison } from '../../shared/contract/aliases.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import type { Gate, GateDecision } from '../../shared/contract/schedules.ts';
import type { CompareResult } from '../../shared/contract/taskResults.ts';

/**
 * Promotes where both hold: the interval's lower bound ≥ −margin (the new model is, at that confidence, not worse by more than the margin), and the
 * difference ≥ min_difference.
 * @param wasChosenByIt the candidate is the best of several checkpoints by the same examples: said, since it flatters the candidate
 */
export function decideGate(
  gate: Pick<Gate, 'margin' | 'min_difference'>,
  comparison: Comparison,
  wasChosenByIt = false,
): GateDecision {
  const margin = gate.margin ?? LIMITS.schedules.defaultGateMargin;
  const minDifference = gate.min_difference ?? 0;
  const [lower, upper] = comparison.interval;
  const isNotWorse = lower >= -margin;
  const isEnough = comparison.difference >= minDifference;
  const numbers =
    `${comparison.candidate_right} against ${comparison.current_right} right of ${comparison.examples}: difference ${signed(comparison.difference)}, ` +
    `${Number((comparison.confidence * 100).toFixed(1))} % interval ${signed(lower)} … ${signed(upper)}`;
  const bound = `lower bound ${signed(lower)} ${isNotWorse ? '≥' : '<'} ${signed(-margin)}`;
  const least = `difference ${signed(comparison.difference)} ${isEnough ? '≥' : '<'} ${signed(minDifference)}`;
  const promote = isNotWorse && isEnough;
  const why = promote
    ? `${bound} and ${least}`
    : [isNotWorse ? '' : bound, isEnough ? '' : least].filter(Boolean).join(', ');
  return {
    promote,
    explanation: `${numbers}. ${promote ? 'Promoted' : 'Kept'}: ${why}.${power(comparison)}${wasChosenByIt ? CHOSEN : ''}`,
    margin,
    min_difference: minDifference,
    comparison,
  };
}

const CHOSEN =
  ' The candidate was chosen among its checkpoints by these same examples, which flatters it: give the gate a held-out file of its own.';

/** Fewer groups say little about their spread, however many examples they hold. */
const FEW_GROUPS = 10;

/** What so many questions cannot tell, in words. */
function power({ examples, groups, detectable_difference: least }: Comparison): string {
  const count =
    groups === undefined || groups === examples ? `${examples} examples` : `${examples} examples in ${groups} groups`;
  if (groups !== undefined && groups < examples && groups < FEW_GROUPS)
    return ` ${count} are few observations: lines about the same pictures count as one. Hold out more pictures, or give each line a \`group\` of its own.`;
  if (least == null) return '';
  return ` With ${count}, a difference under ${(100 * least).toFixed(1)} points cannot be seen reliably (80 % power).`;
}

const signed = (value: number): string => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(3)}`;

/** A backend's counts as the API shows them. */
export function comparisonOf(current: string, candidate: string, result: CompareResult): Comparison {
  return {
    current,
    candidate,
    examples: result.examples,
    current_right: result.currentRight,
    candidate_right: result.candidateRight,
    only_current: result.onlyCurrent,
    only_candidate: result.onlyCandidate,
    ...(result.groups === undefined ? {} : { groups: result.groups }),
    ...(result.detectableDifference === undefined ? {} : { detectable_difference: result.detectableDifference }),
    difference: result.difference,
    interval: result.interval,
    confidence: result.confidence,
    p_value: result.pValue,
  };
}
