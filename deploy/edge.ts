/** The Worker in workerd on this machine: `deploy/wrangler.jsonc` read by wrangler, run by Miniflare, with its stores under one folder. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { Log, LogLevel, Miniflare, type Request, Response, type WorkerOptions } from 'miniflare';
import { ALL_SCOPES, DEFAULT_TENANT } from '../shared/contract/keys.ts';
import { newId } from '../shared/wire/ids.ts';
import { newApiKey } from '../shared/wire/key.ts';
import { type Database, databaseWorker } from './database.ts';
import { guardWorkerd } from './guard.ts';
import { copyTables, preparedSetup, preparedWorker } from './prepared.ts';

const HERE = dirname(fileURLToPath(import.meta.url));
const MIGRATIONS = join(HERE, '..', 'edge', 'store', 'migrations');

/** File beside the stores: what the database has been brought up to. */
const MIGRATED = 'migrations';

const WORKER = 'mantis-edge';

/**
 * workerd itself refuses private peers when it connects, after the name was resolved. Its idea of `public` leaves in some ranges that are not: benchmarking
 * (RFC 2544), IETF protocols, 6to4 relays, and IPv6 that stands for IPv4 (NAT64, Teredo, 6to4), discard and site-local.
 */
export const PUBLIC_NETWORK = {
  network: {
    allow: ['public'],
    deny: [
      ...['198.18.0.0/15', '192.0.0.0/24', '192.88.99.0/24'],
      ...['64:ff9b::/96', '64:ff9b:1::/48', '2001::/32', '2002::/16', '100::/64', 'fec0::/10'],
    ],
    tlsOptions: { trustBrowserCas: true },
  },
};

export type EdgeOptions = {
  /** 0 takes a free one. */
  port: number;
  /** Everything that is kept. */
  dataDir: string;
  /** Shared with the backends. */
  backendSecret: string;
  /** `host:port,…` that webhooks may reach although private. */
  egressAllow?: string;
  /** More variables of wrangler.jsonc, by their name there. */
  vars?: Readonly<Record<string, string>>;
  /** Bootstrap key; without one and with none stored, one is made. */
  apiKey?: string | undefined;
  /** Bindings of the Worker that this process answers itself, by name. */
  services?: Readonly<Record<string, LocalService>>;
  /** Lets tests set the Worker's clock and break its stores (`edge/seams.ts`). No start of the product sets it. */
  testSeams?: boolean;
};

/** A call of the Worker to the process that started it, all in memory. */
export type LocalService = (call: {
  method: string;
  url: string;
  headers: Record<string, string>;
  body: string;
}) => Promise<{ status: number; body: string }>;

export type RunningEdge = {
  /** `http://127.0.0.1:<port>`, without a slash. */
  url: string;
  /** The key made at this start, to be shown once; null where one was given or stored before. */
  newApiKey: string | null;
  /** False once workerd has ended by itself. */
  isAlive(): boolean;
  dispose(): Promise<void>;
};

/** Bundles, starts, migrates, makes sure there is a key. */
export async function startEdge(options: EdgeOptions): Promise<RunningEdge> {
  const storeDir = join(options.dataDir, 'edge');
  await mkdir(storeDir, { recursive: true });
  const bootstrap = await bootstrapHash(options.dataDir, options.apiKey);
  // workerd stands still while the system's resolver looks up a name: everybody would wait 10 s and more for one picture of a domain whose servers are mute.
  process.env.RES_OPTIONS ??= 'timeout:1 attempts:1';
  const migrations = await migrationNames();
  const workerOptions = await preparedSetup();
  // Beside each other: neither needs the other, and each takes half a second where nothing is prepared.
  const [contents] = await Promise.all([
    preparedWorker({ testSeams: options.testSeams === true }),
    bringUpToDate(storeDir, workerOptions.d1Databases, migrations),
  ]);
  const database = databaseWorker(workerOptions.d1Databases);
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
        // Miniflare would send every call of a backend through a Worker of its own that takes a header off which is not there.
        stripCfConnectingIp: false,
        unsafeDirectSockets: [{ host: '127.0.0.1', port: options.port }],
        modules: [
          {
            type: 'ESModule',
            path: 'worker.js',
            contents,
          },
        ],
        bindings: {
          ...workerOptions.bindings,
          // Nobody stands in front who could tell; a client could write it.
          CLIENT_ADDRESS_HEADER: '',
          ...options.vars,
          BACKEND_SECRET: options.backendSecret,
          BOOTSTRAP_KEY_HASH: bootstrap,
          EGRESS_ALLOW: options.egressAllow ?? '',
        },
        serviceBindings: {
          ...workerOptions.serviceBindings,
          PUBLIC_NETWORK,
          ...Object.fromEntries(
            Object.entries(options.services ?? {}).map(([name, service]) => [name, nodeService(service)]),
          ),
        },
      },
      database.worker,
    ],
  });
  try {
    await miniflare.ready.catch((error: unknown) => {
      if (!String(error).includes('ERR_ADDRESS_IN_USE')) throw error;
      throw new Error(`PORT: expected a free port, ${options.port} is in use. Stop what runs there or set another.`);
    });
    const url = (await miniflare.unsafeGetDirectURL(WORKER)).href.replace(/\/$/, '');
    const guard = await guardWorkerd();
    const db = database.open(miniflare);
    if (options.apiKey === undefined && (await adoptOldKey(db, options.dataDir, bootstrap))) {
      guard.release();
      await miniflare.dispose();
      return await startEdge(options);
    }
    const firstKey = await bootstrapKey(db, options.apiKey);
    const dispose = async () => {
      guard.release();
      await miniflare.dispose();
    };
    return { url, newApiKey: firstKey, isAlive: () => guard.areAlive(), dispose };
  } catch (error) {
    await miniflare.dispose();
    throw error;
  }
}

function nodeService(service: LocalService) {
  return async (request: Request): Promise<Response> => {
    const { method, url, headers } = request;
    try {
      const answer = await service({ method, url, headers: Object.fromEntries(headers), body: await request.text() });
      return new Response(answer.body, { status: answer.status });
    } catch (error) {
      return new Response(error instanceof Error ? error.message : String(error), { status: 502 });
    }
  };
}

async function migrationNames(): Promise<string[]> {
  return (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.sql')).sort();
}

/** Makes the tables, or changes them, where they are not those of this version. */
async function bringUpToDate(
  storeDir: string,
  d1Databases: WorkerOptions['d1Databases'],
  migrations: readonly string[],
): Promise<void> {
  if (await isMigrated(storeDir, migrations)) return;
  const isNew = await copyTables(storeDir, migrations, (dir) => migrateAlone(dir, d1Databases, migrations));
  if (isNew) await writeFile(join(storeDir, MIGRATED), migrations.join('\n'));
  else await migrateAlone(storeDir, d1Databases, migrations);
}

/** Whether the tables are those of this version. */
async function isMigrated(storeDir: string, migrations: readonly string[]): Promise<boolean> {
  if (!existsSync(join(storeDir, 'd1'))) return false;
  return (await readFile(join(storeDir, MIGRATED), 'utf8').catch(() => '')) === migrations.join('\n');
}

/**
 * Makes the tables, or brings them up to date, while nobody uses them: clients may ask, jobs go on and alarms ring as soon as the Worker is there, and it
 * must never see tables of another version.
 */
async function migrateAlone(
  storeDir: string,
  d1Databases: WorkerOptions['d1Databases'],
  migrations: readonly string[],
): Promise<void> {
  const database = databaseWorker(d1Databases);
  const alone = new Miniflare({
    host: '127.0.0.1',
    port: 0,
    cf: false,
    log: new Log(LogLevel.WARN),
    defaultPersistRoot: storeDir,
    workers: [database.worker],
  });
  try {
    await migrate(database.open(alone), migrations);
    await writeFile(join(storeDir, MIGRATED), migrations.join('\n'));
  } finally {
    await alone.dispose();
  }
}

/** Applies the SQL files that have not been applied, each in one transaction, in the table wrangler uses too. */
async function migrate(db: Database, names: readonly string[]): Promise<void> {
  const [, made = []] = await db.batch([
    {
      sql: 'CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)',
    },
    { sql: 'SELECT name FROM d1_migrations' },
  ]);
  const applied = new Set(made.map(({ name }) => name));
  if (names.every((name) => applied.has(name))) return;
  const { unstable_splitSqlQuery } = await import('wrangler');
  for (const name of names) {
    if (applied.has(name)) continue;
    const statements = unstable_splitSqlQuery(await readFile(join(MIGRATIONS, name), 'utf8'));
    await db.batch([
      ...statements.map((sql) => ({ sql })),
      { sql: 'INSERT INTO d1_migrations (name) VALUES (?)', values: [name] },
    ]);
  }
}

/** A key that may make others. */
const MANAGING = `SELECT 1 FROM api_keys k JOIN tenants t ON t.id = k.tenant
 WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?) AND k.scopes LIKE ? AND t.disabled_at IS NULL LIMIT 1`;

/** The given key replaces the bootstrap key of earlier starts; without one, the first start makes one. Only hashes are stored. */
async function bootstrapKey(db: Database, given: string | undefined): Promise<string | null> {
  const isThere = async (sql: string, ...values: (string | number)[]): Promise<boolean> =>
    (await db.batch([{ sql, values }]))[0]?.[0] !== undefined;
  if (given === undefined) {
    const usable = 'SELECT 1 FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?) LIMIT 1';
    if (await isThere(usable, Date.now())) {
      // Made by nobody unasked: who revoked the last one may have meant it.
      if (!(await isThere(MANAGING, Date.now(), '%"admin"%')))
        console.error('no key may manage keys any more: start with MANTIS_API_KEY=<yours> to have one that may');
      return null;
    }
  }
  const key = given ?? newApiKey();
  const hash = sha256(key);
  const live = `SELECT 1 FROM api_keys WHERE id = '${BOOTSTRAP_ID}' AND hash = ? AND revoked_at IS NULL AND expires_at IS NULL AND scopes = ?`;
  const scopes = JSON.stringify(ALL_SCOPES);
  if (await isThere(live, hash, scopes)) return null;
  const nowMs = Date.now();
  // A key from before there were tenants has no last4.
  const replaced = `hash = ?1 OR id = '${BOOTSTRAP_ID}' OR (name = 'bootstrap' AND last4 = '')`;
  await db.batch([
    { sql: `DELETE FROM api_keys WHERE ${replaced}`, values: [hash] },
    {
      sql: `INSERT INTO api_keys (hash, id, tenant, name, last4, scopes, created_at, seq)
            SELECT ?, '${BOOTSTRAP_ID}', ?, 'bootstrap', ?, ?, ?, COALESCE(MAX(seq), 0) + 1 FROM api_keys`,
      values: [hash, DEFAULT_TENANT, key.length < 16 ? '****' : key.slice(-4), scopes, nowMs],
    },
    {
      sql: `INSERT INTO audit_log (id, at, tenant, actor, action, object, data) VALUES (?, ?, ?, 'system', 'key.created', '${BOOTSTRAP_ID}', '{"name":"bootstrap"}')`,
      values: [newId('audit_'), nowMs, DEFAULT_TENANT],
    },
  ]);
  return given === undefined ? key : null;
}

const BOOTSTRAP_ID = 'key_bootstrap';

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

/**
 * SHA-256 of the operator's own key, which may be any text and so has no checksum: the Worker lets this one pass to the look-up. Kept in the data folder,
 * so that the key works at later starts that do not name it.
 */
async function bootstrapHash(dataDir: string, given: string | undefined): Promise<string> {
  const path = join(dataDir, 'bootstrap-key-hash');
  if (given === undefined) return (await readFile(path, 'utf8').catch(() => '')).trim();
  await writeFile(path, `${sha256(given)}\n`, { mode: 0o600 });
  return sha256(given);
}

/** Writes that hash down for a key that an earlier version made. @returns whether there was one that the running Worker does not know of */
async function adoptOldKey(db: Database, dataDir: string, hash: string): Promise<boolean> {
  const old = `SELECT hash FROM api_keys WHERE name = 'bootstrap' AND last4 = '' AND revoked_at IS NULL`;
  const known = (await db.batch([{ sql: old }]))[0]?.[0]?.hash;
  if (known === undefined || known === hash) return false;
  await writeFile(join(dataDir, 'bootstrap-key-hash'), `${known}\n`, { mode: 0o600 });
  return true;
}
