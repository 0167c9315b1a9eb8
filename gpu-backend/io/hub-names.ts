import { HubError } from './hub-error.ts';

/** One file of a repository as the hub lists it. */
export interface HubEntry {
  readonly name: string;
  /** Size in bytes; undefined where a mirror does not say. */
  readonly bytes?: number;
  /** Content digest of a large (LFS) file. */
  readonly sha256?: string;
  /** Git blob id (SHA-1 over "blob <size>\0" and the content) of a small file. */
  readonly blobSha1?: string;
}

const SINGLE = 'model.safetensors';
export const INDEX = 'model.safetensors.index.json';
const ADAPTER = 'adapter_model.safetensors';

/** Everything besides weights that a model folder is read from. */
const SMALL_FILES: ReadonlySet<string> = new Set([
  'config.json',
  'generation_config.json',
  'preprocessor_config.json',
  'processor_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.json',
  'chat_template.jinja',
  'adapter_config.json',
]);

/** Formats that run code when they are loaded. */
const PICKLE_NAME = /\.(bin|pt|pth|pkl|pickle|ckpt|joblib|dill)$/i;

const SHARD_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors$/;

/** `owner/name` or `name`, as the hub allows them. */
const REPOSITORY_ID = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(\/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$/;

/** @throws HubError `bad_id` */
export function checkRepositoryId(id: string): void {
  if (!REPOSITORY_ID.test(id) || id.includes('..') || id.includes('--') || /[.-](\/|$)/.test(id))
    throw new HubError(
      'bad_id',
      `expected a hub id such as TIGER-Lab/Mantis-8B-siglip-llama3, got ${JSON.stringify(id.slice(0, 200))}`,
    );
}

/** @throws HubError `bad_id` */
export function checkRevision(revision: string): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}$/.test(revision) || /(^|\/)\.|\.\.|\/\/|\/$/.test(revision))
    throw new HubError(
      'bad_id',
      `expected a branch, tag or commit as the revision, got ${JSON.stringify(revision.slice(0, 200))}`,
    );
}

/**
 * A name that leaves its folder on any system makes the whole listing untrustworthy. Folders inside the repository are fine
 * (nothing in them is needed).
 * @throws HubError `unsafe_name`
 */
export function checkEntryName(name: string): void {
  const parts = name.split('/');
  const hasTrick = name === '' || name.length > 1024 || /[\\\p{Cc}]|^[A-Za-z]:/u.test(name);
  if (hasTrick || parts.some((part) => part === '' || part === '.' || part === '..'))
    throw new HubError(
      'unsafe_name',
      `the repository lists the file name ${JSON.stringify(name.slice(0, 200))}, which does not stay inside a folder: nothing of it was downloaded`,
    );
}

/** The files besides weight shards that are worth having: configuration, tokenizer, processor, template, shard index. */
export function smallFilesOf(entries: readonly HubEntry[]): HubEntry[] {
  const hasSingle = entries.some(({ name }) => name === SINGLE);
  return entries.filter(({ name }) => SMALL_FILES.has(name) || (name === INDEX && !hasSingle));
}

/**
 * The weight files: `model.safetensors`, else the shards that the index names, else `adapter_model.safetensors`. Second
 * copies of the weights under other names (`consolidated.safetensors`, `pytorch_model.bin`) are left.
 *
 * @param index content of the downloaded model.safetensors.index.json
 * @throws HubError
 */
export function weightFilesOf(id: string, entries: readonly HubEntry[], index: unknown): HubEntry[] {
  const byName = new Map(entries.map((entry) => [entry.name, entry]));
  const single = byName.get(SINGLE);
  if (single !== undefined) return [single];
  if (byName.has(INDEX)) return shardsOf(index, byName);
  const adapter = byName.get(ADAPTER);
  if (adapter !== undefined) return [adapter];
  const pickle = entries.find(({ name }) => PICKLE_NAME.test(name));
  if (pickle !== undefined)
    throw new HubError(
      'pickle',
      `${id} holds its weights only as ${pickle.name}, a pickle, which runs code when it is loaded and is never opened here: ` +
        'ask for a revision with safetensors, or convert it in a sandbox',
    );
  throw new HubError('no_weights', `expected ${SINGLE}, ${INDEX} or ${ADAPTER} in ${id}, found none of them`);
}

function shardsOf(index: unknown, byName: ReadonlyMap<string, HubEntry>): HubEntry[] {
  const weightMap = (index as { readonly weight_map?: unknown } | null)?.weight_map;
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap))
    throw new HubError('bad_response', `${INDEX}: expected an object under "weight_map"`);
  const names = new Set<unknown>(Object.values(weightMap));
  return [...names].sort().map((name) => {
    if (typeof name !== 'string' || !SHARD_NAME.test(name))
      throw new HubError(
        'unsafe_name',
        `${INDEX} names the shard ${JSON.stringify(name)?.slice(0, 200)}, expected the plain name of a .safetensors file beside it`,
      );
    const entry = byName.get(name);
    if (entry === undefined)
      throw new HubError('not_found', `${INDEX} names the shard ${name}, which the repository does not list`);
    return entry;
  });
}
