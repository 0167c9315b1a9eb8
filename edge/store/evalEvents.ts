import type { WebhookEventType } from '../../shared/contract/webhooks.ts';
import { newId } from '../../shared/wire/ids.ts';
import type { TaskRow, TaskStatus } from './tasks.ts';
import { insertDeliveries } from './webhooks.ts';

const EVENTS: Partial<Record<TaskStatus, WebhookEventType>> = {
  succeeded: 'eval.run.succeeded',
  failed: 'eval.run.failed',
  cancelled: 'eval.run.canceled',
};

/** Of a run that ends, however it does. */
export function runEvent(
  db: D1Database,
  row: TaskRow,
  status: TaskStatus,
  guard: string,
  atMs: number,
): D1PreparedStatement[] {
  const type = EVENTS[status];
  if (type === undefined) return [];
  const { eval_id } = JSON.parse(row.request) as { eval_id: string };
  const event = { id: newId('evt_'), tenant: row.tenant, type, objectId: row.id, createdAtMs: atMs, data: { eval_id } };
  return insertDeliveries(db, event, guard, atMs);
}
