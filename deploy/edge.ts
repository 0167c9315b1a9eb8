/** The Worker in workerd on this machine: `deploy/wrangler.jsonc` read by wrangler, run by Miniflare, with its stores under one folder. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { Log, LogLevel, Miniflare } from 'miniflare';
import { unstable_getMiniflareWorkerOptions, unstable_splitSqlQuery } from 'wrangler';
import { bundleWorker } from './bundle.ts';
import { guardWorkerd } from './guard.ts';

const HERE = dirname(fileURLToPath(import.meta.url));
const MIGRATIONS = join(HERE, '..', 'edge', 'store', 'migrations');

const WORKER = 'mantis-edge';

export type EdgeOptions = {
  /** 0 takes a free one. */
  port: number;
  /** Everything that is kept. */
  dataDir: string;
  /** Shared with the backends. */
  backendSecret: string;
  /** `host:port,…` that webhooks may reach although private. */
  egressAllow?: string;
  /** Bootstrap key; without one and with none stored, one is made. */
  apiKey?: string | undefined;
};

export type RunningEdge = {
  /** `http://127.0.0.1:<port>`, without a slash. */
  url: string;
  /** The key made at this start, to be shown once; null where one was given or stored before. */
  newApiKey: string | null;
  dispose(): Promise<void>;
};

type Database = Awaited<ReturnType<Miniflare['getD1Database']>>;

/** Bundles, starts, migrates, makes sure there is a key. */
export async function startEdge(options: EdgeOptions): Promise<RunningEdge> {
  const storeDir = join(options.dataDir, 'edge');
  await mkdir(storeDir, { recursive: true });
  const { workerOptions } = unstable_getMiniflareWorkerOptions(join(HERE, 'wrangler.jsonc'));
  const miniflare = new Miniflare({
    // Miniflare's own entry is for its tools; requests go straight to the Worker, which is quicker and tells it when a client hangs up.
    host: '127.0.0.1',
    port: 0,
    // Nothing is asked of the vendor.
    cf: false,
    log: new Log(LogLevel.WARN),
    handleRuntimeStdio(stdout: Readable, stderr: Readable) {
      stdout.pipe(process.stderr, { end: false });
      stderr.pipe(process.stderr, { end: false });
    },
    defaultPersistRoot: storeDir,
    workers: [
      {
        ...workerOptions,
        name: WORKER,
        unsafeDirectSockets: [{ host: '127.0.0.1', port: options.port }],
        modules: [{ type: 'ESModule', path: 'worker.js', contents: await bundleWorker() }],
        bindings: {
          ...workerOptions.bindings,
          BACKEND_SECRET: options.backendSecret,
          EGRESS_ALLOW: options.egressAllow ?? '',
        },
        serviceBindings: {
          ...workerOptions.serviceBindings,
          // workerd itself refuses private peers when it connects, after the name was resolved.
          PUBLIC_NETWORK: { network: { allow: ['public'], tlsOptions: { trustBrowserCas: true } } },
        },
      },
    ],
  });
  try {
    await miniflare.ready.catch((error: unknown) => {
      if (!String(error).includes('ERR_ADDRESS_IN_USE')) throw error;
      throw new Error(`PORT: expected a free port, ${options.port} is in use. Stop what runs there or set another.`);
    });
    const url = (await miniflare.unsafeGetDirectURL(WORKER)).href.replace(/\/$/, '');
    const guard = await guardWorkerd();
    const db = await miniflare.getD1Database('DB');
    await migrate(db);
    const newApiKey = await bootstrapKey(db, options.apiKey);
    const dispose = async () => {
      guard.release();
      await miniflare.dispose();
    };
    return { url, newApiKey, dispose };
  } catch (error) {
    await miniflare.dispose();
    throw error;
  }
}

/** Applies the SQL files that have not been applied, each in one transaction, in the table wrangler uses too. */
async function migrate(db: Database): Promise<void> {
  await db
    .prepare(
      'CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)',
    )
    .run();
  const { results } = await db.prepare('SELECT name FROM d1_migrations').all<{ name: string }>();
  const applied = new Set(results.map(({ name }) => name));
  const names = (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.sql')).sort();
  for (const name of names) {
    if (applied.has(name)) continue;
    const statements = unstable_splitSqlQuery(await readFile(join(MIGRATIONS, name), 'utf8'));
    await db.batch([
      ...statements.map((sql) => db.prepare(sql)),
      db.prepare('INSERT INTO d1_migrations (name) VALUES (?)').bind(name),
    ]);
  }
}

/** The given key replaces the bootstrap key of earlier starts; without one, the first start makes one. Only hashes are stored. */
async function bootstrapKey(db: Database, given: string | undefined): Promise<string | null> {
  if (given === undefined) {
    const row = await db.prepare('SELECT id FROM api_keys WHERE revoked_at IS NULL LIMIT 1').first();
    if (row !== null) return null;
  }
  const key = given ?? `mk_${randomBytes(24).toString('base64url')}`;
  const hash = createHash('sha256').update(key).digest('hex');
  await db.batch([
    db.prepare(`DELETE FROM api_keys WHERE name = 'bootstrap'`),
    db
      .prepare(`INSERT INTO api_keys (hash, id, name, created_at) VALUES (?, ?, 'bootstrap', ?)`)
      .bind(hash, `key_${hash.slice(0, 12)}`, Date.now()),
  ]);
  return given === undefined ? key : null;
}
