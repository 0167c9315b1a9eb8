import { type Actor, auditEntry, IF_CHANGED } from '../store/audit.ts';
import { hasRoomFor, holdFiles, insertTask, type NewTask } from '../store/tasks.ts';

/**
 * Rows of a validation that a client asked for, for one batch; the first statement changes nothing where the tenant has as many unfinished ones as it may.
 */
export function insertValidation(db: D1Database, actor: Actor, task: NewTask, most: number): D1PreparedStatement[] {
  const [insert] = insertTask(db, task, hasRoomFor(actor.tenant, 'validate', most));
  if (insert === undefined) throw new Error('insertTask: expected a row first');
  const entry = { action: 'dataset_validation.created', object: task.id, data: task.request };
  // The bound is reached with the row itself, so what follows asks for the row.
  const isMade = `EXISTS (SELECT 1 FROM tasks WHERE id = '${task.id}')`;
  return [insert, auditEntry(db, actor, entry, IF_CHANGED), holdFiles(db, task.id, task.fileIds, isMade)];
}
