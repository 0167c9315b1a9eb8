import type { Context, MiddlewareHandler } from 'hono';
import { ApiError } from '../../shared/contract/errors.ts';
import { accessOf, type Caller, scopesFor } from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { isWellFormedKey } from '../../shared/wire/key.ts';
import { sha256Hex } from '../../shared/wire/signature.ts';
import type { AppEnv } from '../env.ts';
import { findKey, type LiveKey, touchKey } from '../store/keys.ts';
import { FailureCounter } from './failures.ts';

const K = LIMITS.keys;
const MAX_CACHED = 10_000;

/** What the isolate knows of a key: its row when it was read, null where there was none. */
type Known = { key: LiveKey | null; readAtMs: number; isRefreshing: boolean };
/** By hash. Apart, so that whoever makes up keys pushes out none that works. */
const working = new Map<string, Known>();
const unknown = new Map<string, Known>();
const failures = new FailureCounter(K.maxFailuresPerMinute);

/**
 * Stands in front of all routes: a path that no row of the access table names does not exist, whatever is mounted there. What the rows ask for is
 * checked by `apiKey` and `signed`, which are mounted on whole prefixes.
 */
export function closedByDefault(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const isGuarded = c.req.path.startsWith('/v1/') || c.req.path.startsWith('/internal/');
    if (!isGuarded && accessOf(c.req.path) === null) throw noSuchRoute(c);
    await next();
  };
}

/**
 * `Authorization: Bearer mk_…`: form and checksum first, so that a fake costs no look-up; then the stored hash, kept in the isolate, so that the hot
 * path touches no database; then what the access table asks for. Leaves `caller`, `tenant` and `keyId`.
 * @throws ApiError `invalid_api_key` (the same for unknown, expired and revoked ones), `insufficient_scope`, `rate_limit_exceeded` for a client that
 * keeps sending wrong keys
 */
export function apiKey(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const caller = await authenticate(c);
    c.set('caller', caller);
    c.set('keyId', caller.keyId);
    c.set('tenant', caller.tenant);
    authorize(c, caller);
    await next();
  };
}

async function authenticate(c: Context<AppEnv>): Promise<Caller> {
  const header = c.req.header('authorization') ?? '';
  const given = BEARER.exec(header)?.[1];
  if (given === undefined) {
    const words = (received: string) => `Authorization: expected "Bearer <API key>", received ${received}.`;
    // Who sends no key guesses none.
    if (header === '') throw new ApiError('invalid_api_key', words('nothing'));
    throw refused(c, words('something else'));
  }
  const hash = await sha256Hex(given);
  // The operator's own key may be any text; its hash comes with the configuration.
  if (!isWellFormedKey(given) && hash !== c.env.BOOTSTRAP_KEY_HASH) throw refused(c, UNKNOWN_KEY);
  const nowMs = Date.now();
  const key = await look(c, hash, nowMs);
  if (key === null || (key.expiresAtMs !== null && key.expiresAtMs <= nowMs)) throw refused(c, UNKNOWN_KEY);
  return key.caller;
}

const BEARER = new RegExp(`^Bearer ([\\x21-\\x7e]{1,${K.maxKeyChars}})$`, 'i');
const UNKNOWN_KEY =
  'Authorization: expected a valid API key, received an unknown, expired or revoked one. The first start prints one; `mantis keys create` makes others.';

/** The key's row: from the isolate while it is young, read again beside the request when it is older, before the request when it is too old. */
async function look(c: Context<AppEnv>, hash: string, nowMs: number): Promise<LiveKey | null> {
  const entry = working.get(hash) ?? unknown.get(hash);
  const ageMs = entry === undefined ? Number.POSITIVE_INFINITY : nowMs - entry.readAtMs;
  if (entry !== undefined && ageMs <= K.staleAfterMs) {
    if (ageMs > K.refreshAfterMs && !entry.isRefreshing) {
      entry.isRefreshing = true;
      c.executionCtx.waitUntil(
        read(c, hash, nowMs).catch(() => {
          entry.isRefreshing = false;
        }),
      );
    }
    return entry.key;
  }
  // Nothing is looked up for a client that keeps guessing, unless the key was good before.
  if (entry?.key == null && failures.isOver(addressOf(c), nowMs)) return null;
  return await read(c, hash, nowMs);
}

async function read(c: Context<AppEnv>, hash: string, nowMs: number): Promise<LiveKey | null> {
  let key: LiveKey | null;
  try {
    key = await findKey(c.env.DB, hash, nowMs);
  } catch (error) {
    console.error(JSON.stringify({ level: 'error', event: 'key_look_up', error: String(error) }));
    const words = 'The API key could not be checked. Try again shortly.';
    throw new ApiError('server_error', words, { status: 503, retryAfterMs: 1_000 });
  }
  const [home, other] = key === null ? [unknown, working] : [working, unknown];
  other.delete(hash);
  // The one that was read longest ago goes first.
  home.delete(hash);
  for (const oldest of home.keys()) {
    if (home.size < MAX_CACHED) break;
    home.delete(oldest);
  }
  home.set(hash, { key, readAtMs: nowMs, isRefreshing: false });
  if (key !== null && nowMs - (key.lastUsedAtMs ?? 0) >= K.lastUsedEveryMs)
    c.executionCtx.waitUntil(touchKey(c.env.DB, key.caller.keyId, nowMs).catch(() => {}));
  return key;
}

/** @throws ApiError `insufficient_scope`; `not_found` for paths that no row names */
function authorize(c: Context<AppEnv>, { scopes }: Caller): void {
  const access = accessOf(c.req.path);
  if (access === null || access === 'signature') throw noSuchRoute(c);
  if (access === 'open') return;
  const wanted = scopesFor(access, c.req.method);
  if (wanted === null || wanted.some((scope) => scopes.includes(scope))) return;
  throw new ApiError(
    'insufficient_scope',
    `${c.req.method} ${c.req.path}: expected a key with the scope ${wanted.map((scope) => JSON.stringify(scope)).join(' or ')}, received one with ${scopes.join(', ') || 'none'}.`,
  );
}

/** The refusal of a key, counted where the client's address can be trusted. */
function refused(c: Context<AppEnv>, message: string): ApiError {
  const nowMs = Date.now();
  const retryAfterMs = failures.count(addressOf(c), nowMs);
  if (retryAfterMs === null) return new ApiError('invalid_api_key', message);
  return new ApiError(
    'rate_limit_exceeded',
    `Authorization: expected at most ${K.maxFailuresPerMinute} wrong keys in a minute from one address, received more. Wait, and check the key.`,
    { retryAfterMs },
  );
}

/** Null where no proxy in front is known to set it: a header that clients can write themselves tells nothing. */
function addressOf(c: Context<AppEnv>): string | null {
  const name = c.env.CLIENT_ADDRESS_HEADER ?? '';
  return name === '' ? null : (c.req.header(name) ?? null);
}

function noSuchRoute(c: Context<AppEnv>): ApiError {
  return new ApiError('not_found', `${c.req.method} ${c.req.path}: no such route. /openapi.json lists the routes.`);
}
