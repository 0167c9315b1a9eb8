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
  const named = new Set(compared.map(orderName)).size <= MAX_ORDERS ? compared.map(orderName) : pictureNames(records);
  const orders = [...groupBy(compared.keys(), (i) => named[i] as string)]
    .sort(([a], [b]) => compareNames(a, b))
    .map(([order, own]) => ({
      order,
      ...estimateFrom(
        observationsOf(
          own.map((i) => compared[i] as EvalItem),
          'records',
        ),
      ),
    }));
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
/** More than so many orders are not shown one by one: each would stand for a few questions. */
const MAX_ORDERS = 8;

/** `3 pictures, as published` and `3 pictures, another order` of the items of each record, one record after another. */
function pictureNames(records: readonly (readonly EvalItem[])[]): string[] {
  return records.flatMap((own) => {
    const pictures = own.find(({ variant }) => variant.imageOrder !== undefined)?.variant.imageOrder?.length ?? 0;
    return own.map(
      ({ variant }) => `${pictures} pictures, ${variant.imageOrder === undefined ? AS_PUBLISHED : 'another order'}`,
    );
  });
}

/** The published order first, fewer pictures before more. */
function compareNames(a: string, b: string): number {
  const isPublished = (name: string) => Number(name.endsWith(AS_PUBLISHED));
  return Number.parseInt(a, 10) - Number.parseInt(b, 10) || isPublished(b) - isPublished(a) || (a < b ? -1 : 1);
}

function orderName({ variant: { imageOrder } }: EvalItem): string {
  return imageOrder === undefined ? AS_PUBLISHED : imageOrder.map((picture) => picture + 1).join(' ');
}
