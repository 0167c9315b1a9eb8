/** Files that lie in a backend's own store (S3) and belong to no checkpoint any more. The edge cannot reach them: it says which, a backend deletes them. */

/** Of one answer. */
const PAGE = 100;

/** @param store `s3://bucket/prefix` of the backend that asks: it is told of nothing beyond */
export async function dueOutside(db: D1Database, store: string, nowMs: number): Promise<string[]> {
  const { results } = await db
    .prepare(
      `SELECT location FROM outside_objects WHERE due_at <= ?1 AND substr(location, 1, length(?2)) = ?2 ORDER BY due_at LIMIT ?3`,
    )
    .bind(nowMs, `${store}/`, PAGE)
    .all<{ location: string }>();
  return results.map(({ location }) => location);
}

export async function strikeOutside(db: D1Database, locations: readonly string[]): Promise<void> {
  await db
    .prepare('DELETE FROM outside_objects WHERE location IN (SELECT value FROM json_each(?))')
    .bind(JSON.stringify(locations))
    .run();
}
