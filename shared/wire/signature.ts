/**
 * How edge and backend know each other: HMAC-SHA256 over method, path with query, time, nonce, receiver and body digest (RFC 9421's parts in fewer words).
 * WebCrypto only, so that the same file runs in workerd, Node and browsers.
 *
 * A secret may be several, `new,old`: the first signs, any of them verifies, so that a secret is changed without a call that fails.
 */
export const TIMESTAMP_HEADER = 'x-mantis-timestamp';
/** Drawn anew for each call; a receiver takes none twice. */
export const NONCE_HEADER = 'x-mantis-nonce';
/** Id of the one receiver that may accept the call; absent where there is only one. */
export const AUDIENCE_HEADER = 'x-mantis-audience';
export const SIGNATURE_HEADER = 'x-mantis-signature';
export const BODY_DIGEST_HEADER = 'x-mantis-body-sha256';
/** Body digest of streamed blobs (backend ↔ edge) whose content digest is checked after the transfer. */
export const UNSIGNED_PAYLOAD = 'UNSIGNED-PAYLOAD';

const text = new TextEncoder();

/** Lower-case hex SHA-256 of bytes or of a string's UTF-8. */
export async function sha256Hex(data: Uint8Array | string): Promise<string> {
  const bytes = typeof data === 'string' ? text.encode(data) : data;
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>)));
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

export function hex(bytes: Uint8Array): string {
  let out = '';
  for (const byte of bytes) out += HEX[byte];
  return out;
}

/**
 * Signature headers for one call.
 * @param body bytes or string that is sent, `null` for none, or `UNSIGNED_PAYLOAD` for a streamed blob.
 * @param target path and query, `/v1/generate?x=1`, exactly as sent.
 * @param nowS Unix seconds.
 * @param audience id of the one receiver that may accept it, `''` where there is only one: a call that was listened to is worth nothing elsewhere.
 */
export async function signatureHeaders(options: {
  secret: string;
  audience?: string;
  method: string;
  target: string;
  body: Uint8Array | string | null | typeof UNSIGNED_PAYLOAD;
  nowS: number;
}): Promise<Record<string, string>> {
  const digest = options.body === UNSIGNED_PAYLOAD ? UNSIGNED_PAYLOAD : await sha256Hex(options.body ?? '');
  const timestamp = String(Math.floor(options.nowS));
  const nonce = hex(crypto.getRandomValues(new Uint8Array(16)));
  const { method, target, audience = '' } = options;
  const message = signedText({ method, target, timestamp, nonce, audience, digest });
  const mac = await hmacHex(secretsOf(options.secret)[0] ?? '', message);
  return {
    ...(audience === '' ? {} : { [AUDIENCE_HEADER]: audience }),
    [TIMESTAMP_HEADER]: timestamp,
    [NONCE_HEADER]: nonce,
    [SIGNATURE_HEADER]: `v2=${mac}`,
    [BODY_DIGEST_HEADER]: digest,
  };
}

export type Verdict =
  | { ok: true; bodyDigest: string; nonce: string; timestampS: number }
  | { ok: false; reason: string };

/**
 * Checks the headers of a call; does not read the body. That the nonce is new is for the receiver to see to (`NonceCache`). The caller then compares `bodyDigest` with what it read (`bodyMatches`), so that a forged
 * call is refused before its body is pulled in.
 * @param audience the receiver's own id; left out: any is accepted.
 * @param header reads one header, `null` or `undefined` when absent.
 */
export async function verifyHeaders(options: {
  secret: string;
  audience?: string;
  method: string;
  target: string;
  header: (name: string) => string | null | undefined;
  nowS: number;
  toleranceS: number;
}): Promise<Verdict> {
  const timestamp = options.header(TIMESTAMP_HEADER);
  const nonce = options.header(NONCE_HEADER);
  const signature = options.header(SIGNATURE_HEADER);
  const bodyDigest = options.header(BODY_DIGEST_HEADER);
  if (!timestamp || !nonce || !signature || !bodyDigest) {
    const names = [TIMESTAMP_HEADER, NONCE_HEADER, SIGNATURE_HEADER, BODY_DIGEST_HEADER].join(', ');
    return { ok: false, reason: `expected headers ${names}` };
  }
  if (!/^\d{1,12}$/.test(timestamp)) return { ok: false, reason: `${TIMESTAMP_HEADER}: expected Unix seconds` };
  if (!/^[0-9a-f]{32}$/.test(nonce)) return { ok: false, reason: `${NONCE_HEADER}: expected 32 hexadecimal digits` };
  if (Math.abs(options.nowS - Number(timestamp)) > options.toleranceS) {
    return { ok: false, reason: `${TIMESTAMP_HEADER}: more than ${options.toleranceS} s off; check the clocks` };
  }
  const audience = options.header(AUDIENCE_HEADER) ?? '';
  if (options.audience !== undefined && audience !== options.audience)
    return {
      ok: false,
      reason: `${AUDIENCE_HEADER}: the call is for another receiver, or for an earlier start of this one`,
    };
  const { method, target } = options;
  const message = signedText({ method, target, timestamp, nonce, audience, digest: bodyDigest });
  for (const secret of secretsOf(options.secret)) {
    if (equalText(signature, `v2=${await hmacHex(secret, message)}`))
      return { ok: true, bodyDigest, nonce, timestampS: Number(timestamp) };
  }
  return { ok: false, reason: 'signature does not match' };
}

/** Whether the body that was read is the one that was signed. */
export async function bodyMatches(bodyDigest: string, body: Uint8Array): Promise<boolean> {
  return equalText(bodyDigest, await sha256Hex(body));
}

/** No part can hold a newline, so no two calls have the same text. */
function signedText(call: {
  method: string;
  target: string;
  timestamp: string;
  nonce: string;
  audience: string;
  digest: string;
}): string {
  const { method, target, timestamp, nonce, audience, digest } = call;
  return ['v2', method.toUpperCase(), target, timestamp, nonce, audience, digest].join('\n');
}

/**
 * A code, 64 hexadecimal digits, that proves that whoever has the secret wrote these parts: for links that need no key.
 * @param parts what is proved; the first names the kind of link, so that no code is one of another kind. None may hold a newline.
 */
export async function linkCode(secret: string, parts: readonly string[]): Promise<string> {
  return await hmacHex(secretsOf(secret)[0] ?? '', linkText(parts));
}

/** Whether a code is that of these parts, by any of the secrets. */
export async function linkMatches(secret: string, parts: readonly string[], code: string): Promise<boolean> {
  for (const one of secretsOf(secret)) if (equalText(code, await hmacHex(one, linkText(parts)))) return true;
  return false;
}

/** Begins otherwise than any call's text. */
function linkText(parts: readonly string[]): string {
  if (parts.some((part) => part.includes('\n'))) throw new RangeError('linkCode: expected parts without newlines');
  return ['link', ...parts].join('\n');
}

function secretsOf(secret: string): string[] {
  return secret.split(',').filter((part) => part !== '');
}

/** Imported keys; an installation has one secret, two while it changes. */
const keys = new Map<string, CryptoKey>();
const MAX_KEYS = 16;

async function hmacHex(secret: string, message: string): Promise<string> {
  let key = keys.get(secret);
  if (key === undefined) {
    key = await crypto.subtle.importKey('raw', text.encode(secret), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
    if (keys.size >= MAX_KEYS) keys.clear();
    keys.set(secret, key);
  }
  return hex(new Uint8Array(await crypto.subtle.sign('HMAC', key, text.encode(message))));
}

/** Compares without telling by its time where the first difference is; the length is not secret. */
export function equalText(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(b.length === 0 ? 0 : i % b.length);
  return difference === 0;
}
