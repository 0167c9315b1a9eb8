/** Where features are in the object store: all of one tenant under one prefix, so that they can be deleted together. */
const PREFIX = 'features/';

/** A picture that is still asked for after this long is encoded once more. */
const KEPT_MS = 30 * 24 * 3_600_000;

export function featuresKey(tenant: string, name: string): string {
  return `${PREFIX}${tenant}/${name}`;
}

/**
 * Deletes what has become old on one page of the list.
 * @param cursor where the page before ended; `null` = from the start
 * @param pageObjects at most 1,000, which is what the store lists and deletes in one call
 * @returns where the next page begins; `null` = that was the last one
 */
export async function sweepFeatures(
  blobs: R2Bucket,
  cursor: string | null,
  nowMs: number,
  pageObjects = 1_000,
): Promise<string | null> {
  const page = await blobs.list({ prefix: PREFIX, limit: pageObjects, ...(cursor === null ? {} : { cursor }) });
  const old = page.objects.filter(({ uploaded }) => nowMs - uploaded.getTime() > KEPT_MS);
  if (old.length > 0) await blobs.delete(old.map(({ key }) => key));
  return page.truncated ? page.cursor : null;
}
