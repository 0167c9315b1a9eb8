/** Id of the live key with this hash, or null. */
export async function findKey(db: D1Database, hash: string): Promise<string | null> {
  const row = await db
    .prepare('SELECT id FROM api_keys WHERE hash = ? AND revoked_at IS NULL')
    .bind(hash)
    .first<{ id: string }>();
  return row?.id ?? null;
}
