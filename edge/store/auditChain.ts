import { DurableObject } from 'cloudflare:workers';
import { AUDIT_GENESIS, type AuditVerdict, chainedText } from '../../shared/contract/audit.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import type { Env } from '../env.ts';
import { auditRowsAfter, sealRow } from './audit.ts';

const PAGE_ROWS = 500;

/** The newest entry that is in the chain. */
type Head = { seq: number; hash: string };
const EMPTY: Head = { seq: 0, hash: AUDIT_GENESIS };

/**
 * The audit log's chain. Rows come into the log in the transactions of their changes; this one object gives each its hash over the one before. The newest
 * hash is kept here, apart from the rows, so that rows cut off at the end are missed too.
 */
export class AuditChain extends DurableObject<Env> {
  #work: Promise<unknown> = Promise.resolve();

  /** Chains what has come since the last time. */
  seal(): Promise<Head> {
    return this.#inTurn(() => this.#seal());
  }

  /** Computes the whole chain anew and compares. */
  verify(): Promise<AuditVerdict> {
    return this.#inTurn(async () => {
      const sealed = await this.#seal();
      let at = EMPTY;
      let checked = 0;
      const verdict = (problem: AuditVerdict['problem']): AuditVerdict => ({
        object: 'audit_verdict',
        ok: problem === null,
        checked,
        head: sealed.seq === 0 ? null : sealed,
        problem,
      });
      while (at.seq < sealed.seq) {
        const rows = await auditRowsAfter(this.env.DB, at.seq, PAGE_ROWS);
        if (rows.length === 0) return verdict({ seq: at.seq + 1, reason: 'this entry and all after it are missing' });
        for (const row of rows) {
          if (row.seq > sealed.seq) break;
          if (row.seq !== at.seq + 1) return verdict({ seq: at.seq + 1, reason: 'this entry is missing' });
          const hash = await sha256Hex(chainedText(at.hash, row));
          if (row.previous !== at.hash || row.hash !== hash)
            return verdict({ seq: row.seq, reason: 'this entry is not what it was when it was written' });
          at = { seq: row.seq, hash };
          checked++;
        }
      }
      return verdict(at.hash === sealed.hash ? null : { seq: at.seq, reason: 'the chain was written anew' });
    });
  }

  async #seal(): Promise<Head> {
    let head = (await this.ctx.storage.get<Head>('head')) ?? EMPTY;
    for (;;) {
      const rows = await auditRowsAfter(this.env.DB, head.seq, PAGE_ROWS);
      if (rows.length === 0) return head;
      const statements: D1PreparedStatement[] = [];
      for (const row of rows) {
        const hash = await sha256Hex(chainedText(head.hash, row));
        statements.push(sealRow(this.env.DB, row.seq, head.hash, hash));
        head = { seq: row.seq, hash };
      }
      // After a crash in between the same hashes are computed again.
      await this.env.DB.batch(statements);
      await this.ctx.storage.put('head', head);
    }
  }

  /** One at a time: awaits in between would let two runs chain the same rows. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#work.then(work, work);
    this.#work = turn.catch(() => {});
    return turn;
  }
}
