import type { EvalItem, EvalSpec } from '../task.ts';
import { byRecord, estimateFrom, groupBy, observationsOf, readOf, shareFrom } from './items.ts';
import type { EvalReport } from './schema.ts';

/** How answers depend on the order of the pictures; null where no question was asked in two orders. */
export function imageOrderOf(items: readonly EvalItem[], spec: Pick<EvalSpec, 'variants'>): EvalReport['imageOrder'] {
  const asked = items.filter(({ variant }) => variant.control === 'none' && (variant.optionRotation ?? 0) === 0);
  const records = [...byRecord(asked).values()].filter((own) => own.length > 1);
  const first = records[0]?.[0];
  if (first === undefined) return null;
  const compared = records.flat();
  const orders = [...groupBy(compared, orderName)]
    .sort(([a], [b]) => (a === AS_PUBLISHED ? -1 : b === AS_PUBLISHED ? 1 : a < b ? -1 : 1))
    .map(([order, own]) => ({ order, ...estimateFrom(observationsOf(own, 'records')) }));
  // Orders of which each was asked of a few questions only differ by those questions; compared are those that all were asked in.
  const common = orders.filter((order) => order.items === records.length).map(({ mean }) => mean);
  const facts = (is: (own: readonly EvalItem[]) => boolean) =>
    shareFrom(records.map((own) => ({ cluster: own[0]?.group ?? '', is: is(own) })));
  const isRight = ({ score }: EvalItem) => score === 1;
  const groups = groupBy(spec.variants.protocolOrders === true ? asked : compared, ({ group }) => group);
  return {
    orders,
    spread: common.length > 1 ? Math.max(...common) - Math.min(...common) : 0,
    sameAnswer: facts((own) => new Set(own.map(readOf)).size === 1),
    flipped: shareFrom(
      records.flatMap(([base, ...others]) =>
        base === undefined ? [] : others.map((other) => ({ cluster: other.group, is: readOf(other) !== readOf(base) })),
      ),
    ),
    allRight: facts((own) => own.every(isRight)),
    groupsAllRight: shareFrom([...groups].map(([cluster, own]) => ({ cluster, is: own.every(isRight) }))),
  };
}

const AS_PUBLISHED = 'as published';

function orderName({ variant: { imageOrder } }: EvalItem): string {
  return imageOrder === undefined ? AS_PUBLISHED : imageOrder.map((picture) => picture + 1).join(' ');
}
