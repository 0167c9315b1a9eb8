/** The audit log: who changed what, as a chain in which no entry can be changed or taken out unseen. */
import * as z from 'zod/mini';

export const AuditEntry = z.object({
  id: z.string(),
  object: z.literal('audit_entry'),
  /** Position, from 1 without gaps. */
  seq: z.int(),
  created_at: z.int(),
  /** Whose thing was changed. */
  tenant: z.string(),
  /** `key_…`, or `system` for backends and the installation itself. */
  actor: z.string(),
  action: z.string(),
  /** Id of the thing. */
  target: z.string(),
  data: z.record(z.string(), z.unknown()),
  request_id: z.nullable(z.string()),
  /** SHA-256 over this entry and `previous`; null for the moment until it is chained. */
  hash: z.nullable(z.string()),
  previous: z.nullable(z.string()),
});
export type AuditEntry = z.infer<typeof AuditEntry>;

/** `POST /v1/admin/audit/verify`. */
export const AuditVerdict = z.object({
  object: z.literal('audit_verdict'),
  ok: z.boolean(),
  /** Entries whose place in the chain was computed anew. */
  checked: z.int(),
  /** Of the newest one that is chained; `null` in an empty log. */
  head: z.nullable(z.object({ seq: z.int(), hash: z.string() })),
  /** The first thing that is wrong. */
  problem: z.nullable(z.object({ seq: z.int(), reason: z.string() })),
});
export type AuditVerdict = z.infer<typeof AuditVerdict>;

/** What the chain covers of an entry. */
export type Chained = {
  seq: number;
  id: string;
  at: number;
  tenant: string;
  actor: string;
  action: string;
  object: string;
  data: string;
  request_id: string | null;
};

/** `previous` of the first entry. */
export const AUDIT_GENESIS = '0'.repeat(64);

/** The text whose SHA-256 is an entry's hash: a JSON array, so that no two entries have the same text. */
export function chainedText(previous: string, entry: Chained): string {
  const { seq, id, at, tenant, actor, action, object, data, request_id } = entry;
  return JSON.stringify([previous, seq, id, at, tenant, actor, action, object, data, request_id]);
}
