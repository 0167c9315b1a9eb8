/**
 * The Worker's database for the process that starts it. Miniflare's own way in blocks the process on a signal that can come a moment late, and then every
 * answer is taken for the one before; so statements go to a small Worker beside the real one, which runs them.
 */
import { randomUUID } from 'node:crypto';
import type { Miniflare, WorkerOptions } from 'miniflare';

export type Row = Readonly<Record<string, string | number | null>>;

export type Statement = { sql: string; values?: readonly (string | number | null)[] };

export type Database = {
  /** Runs statements in one transaction. @returns the rows of each @throws Error with the database's own words */
  batch(statements: readonly Statement[]): Promise<Row[][]>;
};

const HOST = 'database.invalid';
/** Requests reach that Worker through this process alone, but the port is open to everybody on this machine. */
const TOKEN = 'x-token';

const SCRIPT = `export default {
  async fetch(request, { DB, TOKEN }) {
    if (request.headers.get('${TOKEN}') !== TOKEN) return new Response(null, { status: 404 });
    try {
      const results = await DB.batch((await request.json()).map(({ sql, values = [] }) => DB.prepare(sql).bind(...values)));
      return Response.json(results.map((result) => result.results));
    } catch (error) {
      return new Response(String(error?.message ?? error), { status: 500 });
    }
  },
};`;

/** The Worker that runs statements, for a list of Workers of Miniflare, and how to ask it. */
export function databaseWorker(d1Databases: WorkerOptions['d1Databases']): {
  worker: WorkerOptions;
  open(miniflare: Miniflare): Database;
} {
  const token = randomUUID();
  return {
    worker: {
      name: 'mantis-database',
      modules: true,
      script: SCRIPT,
      routes: [`${HOST}/*`],
      bindings: { TOKEN: token },
      ...(d1Databases === undefined ? {} : { d1Databases }),
    },
    open: (miniflare) => ({
      async batch(statements) {
        const response = await miniflare.dispatchFetch(`http://${HOST}/`, {
          method: 'POST',
          headers: { [TOKEN]: token },
          body: JSON.stringify(statements),
        });
        if (!response.ok) throw new Error(await response.text());
        return (await response.json()) as Row[][];
      },
    }),
  };
}
