/** Answers that are kept so that a repeated request gets them again. */
import { LIMITS } from '../../shared/contract/limits.ts';

/** `status` is null while the first request runs, `fingerprint` while its body is being read. */
export type KeptAnswer = {
  token: string;
  fingerprint: string | null;
  started_at: number;
  status: number | null;
  headers: string | null;
  body: string | null;
};

export type Claim = {
  tenant: string;
  key: string;
  /** Drawn anew by each try: whose row it is. */
  token: string;
  fingerprint: string | null;
  nowMs: number;
  /** The row is nobody's any more after this time. */
  keepMs: number;
  /** Takes the row whatever is in it. */
  anew: boolean;
};

/**
 * Takes the row of a key if nobody has it, it has expired, or its first request must have been lost.
 * @returns the row as it is now; it is the caller's if it has the caller's token
 */
export async function claimAnswer(db: D1Database, claim: Claim): Promise<KeptAnswer> {
  const { tenant, key, token, fingerprint, nowMs, keepMs, anew } = claim;
  const [, found] = await db.batch<KeptAnswer>([
    db
      .prepare(
        `INSERT INTO kept_answers (tenant, key, token, fingerprint, started_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (tenant, key) DO UPDATE SET token = ?3, fingerprint = ?4, started_at = ?5, expires_at = ?6,
           status = NULL, headers = NULL, body = NULL
         WHERE ?7 = 1 OR kept_answers.expires_at <= ?5 OR (kept_answers.status IS NULL AND kept_answers.started_at <= ?8)`,
      )
      .bind(
        tenant,
        key,
        token,
        fingerprint,
        nowMs,
        nowMs + keepMs,
        anew ? 1 : 0,
        nowMs - LIMITS.idempotency.lostAfterMs,
      ),
    db
      .prepare(
        'SELECT token, fingerprint, started_at, status, headers, body FROM kept_answers WHERE tenant = ? AND key = ?',
      )
      .bind(tenant, key),
  ]);
  const row = found?.results[0];
  if (row === undefined) throw new Error('claimAnswer: the row that was just written is not there');
  return row;
}

export type Owner = Pick<Claim, 'tenant' | 'key' | 'token'>;

/** Keeps the answer, if the row is still the caller's. */
export async function keepAnswer(
  db: D1Database,
  { tenant, key, token }: Owner,
  answer: { status: number; headers: string; body: string; fingerprint: string },
  expiresAtMs: number,
): Promise<void> {
  await db
    .prepare(
      `UPDATE kept_answers SET status = ?, headers = ?, body = ?, fingerprint = ?, expires_at = ?
       WHERE tenant = ? AND key = ? AND token = ? AND status IS NULL`,
    )
    .bind(answer.status, answer.headers, answer.body, answer.fingerprint, expiresAtMs, tenant, key, token)
    .run();
}

/** There is no answer to keep: the key may be used again. */
export async function dropClaim(db: D1Database, { tenant, key, token }: Owner): Promise<void> {
  await db
    .prepare('DELETE FROM kept_answers WHERE tenant = ? AND key = ? AND token = ? AND status IS NULL')
    .bind(tenant, key, token)
    .run();
}

/** Deletes what has expired, and of one tenant's answers the oldest above its share. */
export async function sweepAnswers(db: D1Database, tenant: string, nowMs: number): Promise<void> {
  await db.batch([
    db
      .prepare(
        'DELETE FROM kept_answers WHERE rowid IN (SELECT rowid FROM kept_answers WHERE expires_at <= ? LIMIT 1000)',
      )
      .bind(nowMs),
    db
      .prepare(
        `DELETE FROM kept_answers WHERE rowid IN (
           SELECT rowid FROM kept_answers WHERE tenant = ? ORDER BY expires_at DESC LIMIT 1000 OFFSET ?)`,
      )
      .bind(tenant, LIMITS.idempotency.maxAnswersPerTenant),
  ]);
}
