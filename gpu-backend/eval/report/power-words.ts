/** What so many questions can tell, in a sentence: for people, who must not read a precision that is not there. */
import { leastClusters } from '../statistics/power.ts';
import { counted } from './coverage.ts';
import { type EvalComparison, type EvalReport, REPORT_CONFIDENCE } from './schema.ts';
import { unsigned } from './vision.ts';

/** Of one run, against another model; null where nothing was scored. */
export function powerWords({ power, headline }: Pick<EvalReport, 'power' | 'headline'>): string | null {
  if (headline === null) return null;
  if (power === null) return unknown(headline.clusters, 'All answers score alike');
  const { sameQuestions: same, otherQuestions: other } = power;
  if (same.smallestDifference === null) return TOO_FEW;
  const elsewhere =
    other.smallestDifference === null
      ? ''
      : `, or below ${unsigned(other.smallestDifference)} points to a score on other questions,`;
  return `Differences below ${unsigned(same.smallestDifference)} points to a model asked the same questions${elsewhere} are likely to stay unseen (power 80 %, level 5 %).`;
}

/** Of a comparison. */
export function comparisonPowerWords({ power, clusters }: Pick<EvalComparison, 'power' | 'clusters'>): string {
  if (power === null) return unknown(clusters, 'No answer scores differently');
  if (power.smallestDifference === null) return TOO_FEW;
  return `True differences below ${unsigned(power.smallestDifference)} points between these two are likely to stay unseen (power 80 %, level 5 %).`;
}

const TOO_FEW = 'So few questions are unlikely to show any difference, however large.';

function unknown(clusters: number, alike: string): string {
  const least = leastClusters(REPORT_CONFIDENCE);
  return clusters < least
    ? `No difference, however large, can be shown by ${counted(clusters, 'independent group')}: a test at the level of 5 % takes ${least}.`
    : `${alike}, so that what difference so many questions would show cannot be told.`;
}
