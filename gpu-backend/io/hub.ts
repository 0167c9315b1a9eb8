import { createReadStream } from 'node:fs';
import { lstat, mkdir, readFile, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { sha256File } from './digest.ts';
import { HubError } from './hub-error.ts';
import { downloadFile, type FetchedFile, gitBlobHash } from './hub-file.ts';
import {
  checkEntryName,
  checkRepositoryId,
  checkRevision,
  type HubEntry,
  INDEX,
  smallFilesOf,
  weightFilesOf,
} from './hub-names.ts';
import { HUB_PATIENCE, HubClient, type HubPatience } from './hub-request.ts';
import { replaceFile } from './safetensors-write.ts';

export interface HubProgress {
  readonly file: string;
  /** Of this file, in bytes; the total is 0 while it is not known. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Of all files that are known to be needed so far. */
  readonly allDoneBytes: number;
  readonly allTotalBytes: number;
}

export interface HubOptions {
  /** Folder that takes the files; made if missing. */
  readonly dir: string;
  /** Default HF_ENDPOINT, else https://huggingface.co. */
  readonly endpoint?: string | undefined;
  /** Default HF_TOKEN (unless HF_HUB_DISABLE_IMPLICIT_TOKEN is set). Sent to the endpoint's own origin only. */
  readonly token?: string | undefined;
  /** Branch, tag or commit. Default main. */
  readonly revision?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: HubProgress) => void) | undefined;
  /** Files under way at a time. Default 3. */
  readonly concurrency?: number;
  readonly patience?: Partial<HubPatience>;
  /** Default process.env. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly random?: () => number;
  readonly sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** Free bytes where a folder lies. Default: asks the file system. */
  readonly freeBytes?: (dir: string) => Promise<number>;
}

export interface HubDownload {
  readonly dir: string;
  /** Commit that `revision` stood for, where the hub says so. */
  readonly commit?: string;
  readonly files: readonly FetchedFile[];
}

/** Record of a finished download in its folder: what an offline start and the next download go by. */
const RECORD = '.hub.json';

interface HubRecord {
  readonly id: string;
  readonly revision: string;
  readonly commit?: string;
  readonly files: readonly (FetchedFile & { readonly blobSha1?: string; readonly mtimeMs: number })[];
}

const MAX_LISTING_BYTES = 32 << 20;
const MAX_LISTED_FILES = 100_000;
/** The largest tokenizer.json of the families has 17 MB. */
const MAX_SMALL_BYTES = 128 << 20;
const MAX_WEIGHT_BYTES = 1e12;
/** Left free beside what is downloaded. */
const SPARE_BYTES = 64 << 20;

/**
 * Downloads what a model folder needs from a Hugging Face-compatible hub: configuration, tokenizer, processor, chat
 * template and safetensors, never a pickle. A file that is there and whole is kept; one that is begun is continued. Files
 * that an earlier download put there and that this revision does not have are removed.
 *
 * HF_ENDPOINT names a mirror, HF_TOKEN a token; with HF_HUB_OFFLINE nothing is asked and a complete earlier download is
 * handed back.
 *
 * @param id `owner/name`
 * @throws HubError (see its codes), or the reason of `signal`
 */
export async function downloadFromHub(id: string, options: HubOptions): Promise<HubDownload> {
  const env = options.env ?? process.env;
  const revision = options.revision ?? 'main';
  checkRepositoryId(id);
  checkRevision(revision);
  const { dir } = options;
  const before = await readRecord(dir);
  if (before !== undefined && before.id !== id)
    throw new HubError('bad_id', `${dir} holds a download of ${before.id}: choose another folder for ${id}`);
  if (isTruthy(env.HF_HUB_OFFLINE)) return await offline(id, revision, dir, before);

  const token = options.token ?? (isTruthy(env.HF_HUB_DISABLE_IMPLICIT_TOKEN) ? undefined : env.HF_TOKEN?.trim());
  // One failing file ends the others.
  const failed = new AbortController();
  const signal = options.signal === undefined ? failed.signal : AbortSignal.any([options.signal, failed.signal]);
  const client = new HubClient({
    endpoint: (options.endpoint ?? (env.HF_ENDPOINT?.trim() || 'https://huggingface.co')).replace(/\/+$/, ''),
    token: token === '' ? undefined : token,
    patience: { ...HUB_PATIENCE, ...options.patience },
    signal,
    random: options.random ?? Math.random,
    sleep: options.sleep ?? ((ms, s) => delay(ms, undefined, s === undefined ? {} : { signal: s })),
  });
  const { entries, commit } = await listing(client, id, revision);
  await mkdir(dir, { recursive: true });

  const progress = new ProgressSum(options.onProgress);
  const fetched: (FetchedFile & { readonly entry: HubEntry })[] = [];
  const fetchAll = async (wanted: readonly HubEntry[], maxBytes: number): Promise<void> => {
    progress.expect(wanted);
    const queue: HubEntry[] = [];
    const take = (file: FetchedFile, entry: HubEntry): void => {
      progress.report(file.name, file.bytes, file.bytes, true);
      fetched.push({ ...file, entry });
    };
    for (const entry of wanted) {
      signal.throwIfAborted();
      const kept = await keptFile(dir, entry, before);
      if (kept === undefined) queue.push(entry);
      else take(kept, entry);
    }
    await checkSpace(dir, queue, options.freeBytes ?? freeBytes);
    const run = async (): Promise<void> => {
      for (let entry = queue.shift(); entry !== undefined; entry = queue.shift()) {
        const { name } = entry;
        const onBytes = (done: number, total: number): void => progress.report(name, done, total);
        const urlPath = `/${id}/resolve/${encodeURIComponent(commit ?? revision)}/${encodeURIComponent(name)}`;
        take(await downloadFile({ client, urlPath, dir, entry, maxBytes, onBytes }), entry);
      }
    };
    const runs = Array.from({ length: Math.min(options.concurrency ?? 3, queue.length) }, run);
    try {
      await Promise.all(runs);
    } catch (error) {
      failed.abort(error);
      // Their parts are closed before the caller hears of the failure.
      await Promise.allSettled(runs);
      options.signal?.throwIfAborted();
      throw error;
    }
  };

  const small = smallFilesOf(entries);
  // The listing alone already refuses repositories whose weights are pickles; shards are named by a file still to come.
  const needsIndex = small.some(({ name }) => name === INDEX);
  const weights = needsIndex ? undefined : weightFilesOf(id, entries, undefined);
  progress.expect(weights ?? []);
  await fetchAll(small, MAX_SMALL_BYTES);
  await fetchAll(weights ?? weightFilesOf(id, entries, await readIndex(join(dir, INDEX))), MAX_WEIGHT_BYTES);

  fetched.sort((a, b) => (a.name < b.name ? -1 : 1));
  await removeStale(dir, before, new Set(fetched.map(({ name }) => name)));
  await writeRecord(dir, { id, revision, ...(commit === undefined ? {} : { commit }) }, fetched);
  const files = fetched.map(({ name, bytes, sha256 }) => ({ name, bytes, sha256 }));
  return { dir, ...(commit === undefined ? {} : { commit }), files };
}

function isTruthy(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value?.trim() ?? '');
}

/** Files of a revision with sizes and digests, and the commit it stands for. */
async function listing(
  client: HubClient,
  id: string,
  revision: string,
): Promise<{ readonly entries: HubEntry[]; readonly commit: string | undefined }> {
  const what = `${id} (revision ${revision})`;
  const info = (await client.getJson(
    `/api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`,
    what,
    MAX_LISTING_BYTES,
  )) as { readonly sha?: unknown; readonly siblings?: unknown } | null;
  const siblings = info?.siblings;
  if (!Array.isArray(siblings) || siblings.length > MAX_LISTED_FILES)
    throw new HubError('bad_response', `${what}: expected a list of at most ${MAX_LISTED_FILES} "siblings"`);
  const entries = (siblings as readonly unknown[]).map((sibling) => parseSibling(sibling, what));
  const commit = typeof info?.sha === 'string' && /^[0-9a-f]{40}$/.test(info.sha) ? info.sha : undefined;
  return { entries, commit };
}

function parseSibling(value: unknown, what: string): HubEntry {
  const sibling = (value ?? {}) as Readonly<Record<string, unknown>>;
  const { rfilename: name, size, blobId } = sibling;
  if (typeof name !== 'string') throw new HubError('bad_response', `${what}: a listed file has no "rfilename"`);
  checkEntryName(name);
  const lfs = (sibling.lfs ?? undefined) as Readonly<Record<string, unknown>> | undefined;
  const oid = lfs?.sha256 ?? lfs?.oid;
  const sha256 = typeof oid === 'string' ? oid.replace(/^sha256:/, '').toLowerCase() : undefined;
  if (lfs !== undefined && sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256))
    throw new HubError('bad_response', `${what}: ${name} has the SHA-256 ${JSON.stringify(oid)}`);
  const bytes = lfs?.size ?? size;
  if (bytes !== undefined && bytes !== null && !(Number.isSafeInteger(bytes) && (bytes as number) >= 0))
    throw new HubError('bad_response', `${what}: ${name} has the size ${JSON.stringify(bytes)}`);
  return {
    name,
    ...(typeof bytes === 'number' ? { bytes } : {}),
    ...(sha256 === undefined ? {} : { sha256 }),
    // A large file's blob is its pointer, not its content.
    ...(lfs === undefined && typeof blobId === 'string' && /^[0-9a-f]{40}$/.test(blobId) ? { blobSha1: blobId } : {}),
  };
}

/** The file that is already there, if it is whole: by the record while it is untouched, else by its digest. */
async function keptFile(dir: string, entry: HubEntry, before: HubRecord | undefined): Promise<FetchedFile | undefined> {
  const path = join(dir, entry.name);
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return undefined;
  if (found.isDirectory()) throw new HubError('unsafe_name', `${path} is a folder: the file of this name has no place`);
  const isWhole = found.isFile() && (entry.bytes === undefined || found.size === entry.bytes);
  if (!isWhole || (entry.sha256 === undefined && entry.blobSha1 === undefined)) return undefined;
  const noted = before?.files.find(({ name }) => name === entry.name);
  const isNoted = noted !== undefined && noted.bytes === found.size && noted.mtimeMs === found.mtimeMs;
  const isSame = entry.sha256 === undefined ? noted?.blobSha1 === entry.blobSha1 : noted?.sha256 === entry.sha256;
  if (isNoted && isSame) return { name: entry.name, bytes: found.size, sha256: noted.sha256 };
  const sha256 = await sha256File(path);
  if (entry.sha256 !== undefined)
    return sha256 === entry.sha256 ? { name: entry.name, bytes: found.size, sha256 } : undefined;
  const hash = gitBlobHash(found.size);
  for await (const piece of createReadStream(path)) hash.update(piece as Uint8Array);
  return hash.digest('hex') === entry.blobSha1 ? { name: entry.name, bytes: found.size, sha256 } : undefined;
}

async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

/** @throws HubError `disk_full` before anything is downloaded */
async function checkSpace(
  dir: string,
  wanted: readonly HubEntry[],
  free: (dir: string) => Promise<number>,
): Promise<void> {
  let needed = 0;
  for (const { name, bytes = 0 } of wanted) {
    const part = await stat(join(dir, `${name}.part`)).catch(() => undefined);
    needed += Math.max(0, bytes - (part?.size ?? 0));
  }
  const available = await free(dir);
  if (needed > 0 && needed + SPARE_BYTES > available)
    throw new HubError(
      'disk_full',
      `${needed} bytes are still to come and ${SPARE_BYTES} must stay free, ${dir} has ${available}: free space or choose another folder`,
    );
}

async function readIndex(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new HubError('bad_response', `${path} is not JSON`, { cause });
  }
}

async function readRecord(dir: string): Promise<HubRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(join(dir, RECORD), 'utf8')) as HubRecord;
    return typeof record.id === 'string' && Array.isArray(record.files) ? record : undefined;
  } catch {
    return undefined;
  }
}

async function writeRecord(
  dir: string,
  head: Omit<HubRecord, 'files'>,
  fetched: readonly (FetchedFile & { readonly entry: HubEntry })[],
): Promise<void> {
  const files = await Promise.all(
    fetched.map(async ({ name, bytes, sha256, entry: { blobSha1 } }) => ({
      name,
      bytes,
      sha256,
      ...(blobSha1 === undefined ? {} : { blobSha1 }),
      mtimeMs: (await stat(join(dir, name))).mtimeMs,
    })),
  );
  await replaceFile(join(dir, RECORD), async (file) => {
    await file.writeFile(JSON.stringify({ ...head, files }, null, 2));
  });
}

/** What an earlier revision had and this one has not would be read in its place. */
async function removeStale(dir: string, before: HubRecord | undefined, names: ReadonlySet<string>): Promise<void> {
  for (const { name } of before?.files ?? []) {
    // The record is a file like any other: only plain names in it are followed.
    if (!names.has(name) && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name)) await rm(join(dir, name), { force: true });
  }
}

async function offline(id: string, revision: string, dir: string, record: HubRecord | undefined): Promise<HubDownload> {
  const refuse = (why: string): never => {
    throw new HubError('offline', `HF_HUB_OFFLINE is set and ${why}: unset it to download ${id}`);
  };
  if (record === undefined) return refuse(`${dir} holds no complete download`);
  if (record.revision !== revision && record.commit !== revision)
    return refuse(`${dir} holds revision ${record.revision}, not ${revision}`);
  for (const { name, bytes } of record.files) {
    const size = (await stat(join(dir, name)).catch(() => undefined))?.size;
    if (size !== bytes) return refuse(`${join(dir, name)} should have ${bytes} bytes, it has ${size ?? 'gone'}`);
  }
  const files = record.files.map(({ name, bytes, sha256 }) => ({ name, bytes, sha256 }));
  return { dir, ...(record.commit === undefined ? {} : { commit: record.commit }), files };
}

/** Sums over files; speaks at most ten times a second, and at each file's end. */
class ProgressSum {
  private readonly done = new Map<string, number>();
  private readonly total = new Map<string, number>();
  private lastMs = 0;

  constructor(private readonly listener: ((progress: HubProgress) => void) | undefined) {}

  expect(entries: readonly HubEntry[]): void {
    for (const { name, bytes } of entries) this.total.set(name, bytes ?? 0);
  }

  report(file: string, doneBytes: number, totalBytes: number, isEnd = false): void {
    this.done.set(file, doneBytes);
    if (totalBytes > 0) this.total.set(file, totalBytes);
    const nowMs = performance.now();
    if (this.listener === undefined || (!isEnd && nowMs - this.lastMs < 100)) return;
    this.lastMs = nowMs;
    const sum = (map: ReadonlyMap<string, number>): number => [...map.values()].reduce((a, b) => a + b, 0);
    this.listener({ file, doneBytes, totalBytes, allDoneBytes: sum(this.done), allTotalBytes: sum(this.total) });
  }
}
