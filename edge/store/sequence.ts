/** SQL of the next list position in a table; evaluated inside the INSERT, so two writers cannot get the same. */
export function nextSeq(
  table:
    | 'files'
    | 'jobs'
    | 'tasks'
    | 'datasets'
    | 'validations'
    | 'webhook_endpoints'
    | 'webhook_events'
    | 'api_keys'
    | 'tenants'
    | 'uploads'
    | 'batches'
    | 'schedules'
    | 'schedule_runs'
    | 'aliases'
    | 'alias_changes'
    | 'evals'
    | 'eval_runs',
): string {
  return `(SELECT COALESCE(MAX(seq), 0) + 1 FROM ${table})`;
}

/** A page of `limit` rows from `limit + 1` fetched ones. */
export function page<Row, Item extends { id: string }>(rows: readonly Row[], limit: number, show: (row: Row) => Item) {
  const data = rows.slice(0, limit).map(show);
  return {
    object: 'list' as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: rows.length > limit,
  };
}
