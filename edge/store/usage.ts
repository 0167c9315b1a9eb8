/** Rows of what was used, and sums over them. */
import type { UsageGroup, UsageRecord } from '../../shared/contract/usage.ts';
import { page } from './sequence.ts';

export type UsageRow = {
  id: string;
  request_id: string;
  at: number;
  tenant: string;
  key_id: string;
  model: string;
  route: string;
  status: number;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  image_tokens: number;
  images: {
    digest: string;
    bytes: number;
    width: number;
    height: number;
    tokens: number;
    cache: string;
  }[];
  bytes_in: number;
  duration_ms: number;
  batch: string | null;
};

const COLUMNS =
  'id, request_id, at, tenant, key_id, model, route, status, prompt_tokens, completion_tokens, cached_tokens, image_tokens, images, bytes_in, duration_ms, batch';

/** All rows and their pictures in one transaction; rows that are there already stay as they are. */
export async function insertUsage(db: D1Database, rows: readonly UsageRow[]): Promise<void> {
  const json = JSON.stringify(rows);
  const of = (column: string) => `value ->> '$.${column}'`;
  const values = COLUMNS.split(', ').map((column) =>
    column === 'images' ? `json_array_length(value, '$.images')` : of(column),
  );
  const statements = [
    db
      .prepare(`INSERT OR IGNORE INTO usage_requests (${COLUMNS}) SELECT ${values.join(', ')} FROM json_each(?)`)
      .bind(json),
  ];
  if (rows.some(({ images }) => images.length > 0)) {
    const picture = (column: string) => `image.value ->> '$.${column}'`;
    statements.push(
      db
        .prepare(
          `INSERT OR IGNORE INTO usage_images (usage_id, position, digest, bytes, width, height, tokens, cache)
           SELECT request.value ->> '$.id', image.key, ${['digest', 'bytes', 'width', 'height', 'tokens', 'cache'].map(picture).join(', ')}
           FROM json_each(?) AS request, json_each(request.value, '$.images') AS image`,
        )
        .bind(json),
    );
  }
  await db.batch(statements);
}

/** Sums of one group in one bucket. */
export type UsageSum = {
  bucket: number;
  model: string | null;
  key_id: string | null;
  tenant: string | null;
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  cached_tokens: number;
  image_tokens: number;
  images: number;
  bytes_in: number;
};

export type UsageQuery = {
  /** Null: everybody's. */
  tenant: string | null;
  fromMs: number;
  untilMs: number;
  widthMs: number;
  groupBy: readonly UsageGroup[];
  models: readonly string[];
  keyIds: readonly string[];
};

const GROUP_COLUMN = { model: 'model', key: 'key_id', tenant: 'tenant' } as const satisfies Record<UsageGroup, string>;

/** `bucket` is the number of the bucket from `fromMs` on. In order of bucket and group. */
export async function sumUsage(db: D1Database, query: UsageQuery): Promise<UsageSum[]> {
  const groups = new Set(query.groupBy.map((group) => GROUP_COLUMN[group]));
  const column = (name: 'model' | 'key_id' | 'tenant') => (groups.has(name) ? name : `NULL AS ${name}`);
  const by = ['bucket', ...groups].join(', ');
  // Both ways the rows are found by tenant and time.
  const tenants = query.tenant === null ? 'IN (SELECT id FROM tenants WHERE ?4 IS NULL)' : '= ?4';
  const { results } = await db
    .prepare(
      `SELECT CAST((at - ?1) / ?2 AS INTEGER) AS bucket, ${column('model')}, ${column('key_id')}, ${column('tenant')}, COUNT(*) AS requests,
         SUM(prompt_tokens) AS prompt_tokens, SUM(completion_tokens) AS completion_tokens, SUM(cached_tokens) AS cached_tokens,
         SUM(image_tokens) AS image_tokens, SUM(images) AS images, SUM(bytes_in) AS bytes_in
       FROM usage_requests
       WHERE tenant ${tenants} AND at >= ?1 AND at < ?3
         AND (?5 = '[]' OR model IN (SELECT value FROM json_each(?5))) AND (?6 = '[]' OR key_id IN (SELECT value FROM json_each(?6)))
       GROUP BY ${by} ORDER BY ${by}`,
    )
    .bind(
      query.fromMs,
      query.widthMs,
      query.untilMs,
      query.tenant,
      JSON.stringify(query.models),
      JSON.stringify(query.keyIds),
    )
    .all<UsageSum>();
  return results;
}

type StoredUsage = Omit<UsageRow, 'images'> & { pictures: string };

/** A tenant's records, newest first. @param query.requestId null: of all requests */
export async function listUsage(
  db: D1Database,
  tenant: string,
  query: { limit: number; after: string | null; requestId: string | null },
) {
  const { results } = await db
    .prepare(
      `SELECT *, (SELECT json_group_array(json_object('digest', digest, 'bytes', bytes, 'width', width, 'height', height, 'tokens', tokens, 'cache', cache))
           FROM (SELECT * FROM usage_images WHERE usage_id = usage_requests.id ORDER BY position)) AS pictures
       FROM usage_requests
       WHERE tenant = ?1 AND (?2 IS NULL OR (at, id) < (SELECT at, id FROM usage_requests WHERE id = ?2 AND tenant = ?1))
         AND (?3 IS NULL OR request_id = ?3)
       ORDER BY at DESC, id DESC LIMIT ?4`,
    )
    .bind(tenant, query.after, query.requestId, query.limit + 1)
    .all<StoredUsage>();
  return page(results, query.limit, showRecord);
}

function showRecord(row: StoredUsage): UsageRecord {
  return {
    id: row.id,
    object: 'usage.record',
    request_id: row.request_id,
    created_at: Math.floor(row.at / 1000),
    api_key_id: row.key_id,
    model: row.model,
    route: row.route,
    status: row.status,
    input_tokens: row.prompt_tokens,
    output_tokens: row.completion_tokens,
    input_cached_tokens: row.cached_tokens,
    input_image_tokens: row.image_tokens,
    input_bytes: row.bytes_in,
    duration_ms: row.duration_ms,
    batch_id: row.batch,
    images: JSON.parse(row.pictures) as UsageRecord['images'],
  };
}
