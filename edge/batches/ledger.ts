/**
 * What a batch has to do and what came of it, in the object's own database: a line is settled once, in one transaction with its result, so that no crash
 * loses one or lists one twice.
 */

/** A line of the input: where it is in the file, and how often the server failed at it. */
export type LedgerLine = { number: number; at: number; bytes: number; custom_id: string; attempts: number };

export type Settled = 'output' | 'error';

/** Rows have a limit of 2 MB; a UTF-16 unit takes three bytes at most. */
const PIECE_CHARS = 500_000;
/** Rows read at once. */
const PAGE = 8;
const OPEN = 0;
const STATE = { output: 1, error: 2 } as const;

export class Ledger {
  readonly #storage: DurableObjectStorage;

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    storage.sql.exec(
      `CREATE TABLE IF NOT EXISTS lines (
         number INTEGER PRIMARY KEY, at INTEGER NOT NULL, bytes INTEGER NOT NULL, custom_id TEXT NOT NULL,
         attempts INTEGER NOT NULL DEFAULT 0, state INTEGER NOT NULL DEFAULT ${OPEN});
       CREATE INDEX IF NOT EXISTS open_lines ON lines (number) WHERE state = ${OPEN};
       CREATE TABLE IF NOT EXISTS results (
         state INTEGER NOT NULL, number INTEGER NOT NULL, piece INTEGER NOT NULL, text TEXT NOT NULL,
         PRIMARY KEY (state, number, piece)) WITHOUT ROWID;`,
    );
  }

  /** Forgets the lines of a reading that did not come to its end. */
  clear(): void {
    this.#storage.sql.exec('DELETE FROM results; DELETE FROM lines;');
  }

  add(lines: readonly Omit<LedgerLine, 'attempts'>[]): void {
    this.#storage.transactionSync(() => {
      for (const { number, at, bytes, custom_id } of lines)
        this.#storage.sql.exec(
          'INSERT INTO lines (number, at, bytes, custom_id) VALUES (?, ?, ?, ?)',
          number,
          at,
          bytes,
          custom_id,
        );
    });
  }

  /** Open lines after `number`, in order. */
  open(number: number, limit: number): LedgerLine[] {
    return this.#storage.sql
      .exec<LedgerLine>(
        `SELECT number, at, bytes, custom_id, attempts FROM lines WHERE state = ${OPEN} AND number > ? ORDER BY number LIMIT ?`,
        number,
        limit,
      )
      .toArray();
  }

  /** Writes down what came of a line. @param text without a line end @returns false where that had been done before */
  settle(number: number, as: Settled, text: string): boolean {
    return this.#storage.transactionSync(() => {
      const { sql } = this.#storage;
      const settled = sql.exec(
        `UPDATE lines SET state = ? WHERE number = ? AND state = ${OPEN} RETURNING number`,
        STATE[as],
        number,
      );
      if (settled.toArray().length === 0) return false;
      pieces(`${text}\n`).forEach((piece, i) => {
        sql.exec('INSERT INTO results (state, number, piece, text) VALUES (?, ?, ?, ?)', STATE[as], number, i, piece);
      });
      return true;
    });
  }

  /** The server failed at a line. @returns how often by now */
  failed(number: number): number {
    return this.#storage.sql
      .exec<{ attempts: number }>(
        'UPDATE lines SET attempts = attempts + 1 WHERE number = ? RETURNING attempts',
        number,
      )
      .one().attempts;
  }

  counts(): { total: number; completed: number; failed: number } {
    return this.#storage.sql
      .exec<{ total: number; completed: number; failed: number }>(
        `SELECT COUNT(*) AS total, COALESCE(SUM(state = ${STATE.output}), 0) AS completed,
           COALESCE(SUM(state = ${STATE.error}), 0) AS failed FROM lines`,
      )
      .one();
  }

  /** Text of all results of one kind in the order of the input, each with its line end, in pieces of bounded length. */
  *results(as: Settled): Generator<string, void, undefined> {
    let last = { number: 0, piece: -1 };
    for (;;) {
      const rows = this.#storage.sql
        .exec<{ number: number; piece: number; text: string }>(
          `SELECT number, piece, text FROM results WHERE state = ? AND (number, piece) > (?, ?) ORDER BY number, piece LIMIT ${PAGE}`,
          STATE[as],
          last.number,
          last.piece,
        )
        .toArray();
      for (const row of rows) {
        yield row.text;
        last = row;
      }
      if (rows.length < PAGE) return;
    }
  }
}

/** Cuts a text, but never between the halves of one character, which a database would not give back. */
function pieces(text: string): string[] {
  const all: string[] = [];
  for (let from = 0; from < text.length; ) {
    let to = Math.min(from + PIECE_CHARS, text.length);
    const last = text.charCodeAt(to - 1);
    if (to < text.length && last >= 0xd800 && last < 0xdc00) to--;
    all.push(text.slice(from, to));
    from = to;
  }
  return all;
}
