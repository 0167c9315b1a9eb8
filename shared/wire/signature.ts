/**
 * How edge and backend know each other: HMAC-SHA256 over method, path with query, time and body digest. WebCrypto only, so that the same file runs
 * in workerd, Node and browsers.
 */
export const TIMESTAMP_HEADER = 'x-mantis-timestamp';
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

export function hex(bytes: Uint8Array): string {
  let out = '';
  for (const byte of bytes) out += byte.toString(16).padStart(2, '0');
  return out;
}

/**
 * Signature headers for one call.
 * @param body bytes or string that is sent, `null` for none, or `UNSIGNED_PAYLOAD` for a streamed blob.
 * @param target path and query, `/v1/generate?x=1`, exactly as sent.
 * @param nowS Unix seconds.
 */
export async function signatureHeaders(options: {
  secret: string;
  method: string;
  target: string;
  body: Uint8Array | string | null | typeof UNSIGNED_PAYLOAD;
  nowS: number;
}): Promise<Record<string, string>> {
  const digest = options.body === UNSIGNED_PAYLOAD ? UNSIGNED_PAYLOAD : await sha256Hex(options.body ?? '');
  const timestamp = String(Math.floor(options.nowS));
  const mac = await hmacHex(options.secret, signedText(options.method, options.target, timestamp, digest));
  return { [TIMESTAMP_HEADER]: timestamp, [SIGNATURE_HEADER]: `v1=${mac}`, [BODY_DIGEST_HEADER]: digest };
}

export type Verdict = { ok: true; bodyDigest: string } | { ok: false; reason: string };

/**
 * Checks the headers of a call; does not read the body. The caller then compares `bodyDigest` with what it read (`bodyMatches`), so that a forged
 * call is refused before its body is pulled in.
 * @param header reads one header, `null` or `undefined` when absent.
 */
export async function verifyHeaders(options: {
  secret: string;
  method: string;
  target: string;
  header: (name: string) => string | null | undefined;
  nowS: number;
  toleranceS: number;
}): Promise<Verdict> {
  const timestamp = options.header(TIMESTAMP_HEADER);
  const signature = options.header(SIGNATURE_HEADER);
  const bodyDigest = options.header(BODY_DIGEST_HEADER);
  if (!timestamp || !signature || !bodyDigest) {
    return { ok: false, reason: `expected headers ${TIMESTAMP_HEADER}, ${SIGNATURE_HEADER}, ${BODY_DIGEST_HEADER}` };
  }
  if (!/^\d{1,12}$/.test(timestamp)) return { ok: false, reason: `${TIMESTAMP_HEADER}: expected Unix seconds` };
  if (Math.abs(options.nowS - Number(timestamp)) > options.toleranceS) {
    return { ok: false, reason: `${TIMESTAMP_HEADER}: more than ${options.toleranceS} s off; check the clocks` };
  }
  const expected = await hmacHex(options.secret, signedText(options.method, options.target, timestamp, bodyDigest));
  if (!equalText(signature, `v1=${expected}`)) return { ok: false, reason: 'signature does not match' };
  return { ok: true, bodyDigest };
}

/** Whether the body that was read is the one that was signed. */
export async function bodyMatches(bodyDigest: string, body: Uint8Array): Promise<boolean> {
  return equalText(bodyDigest, await sha256Hex(body));
}

function signedText(method: string, target: string, timestamp: string, digest: string): string {
  return `${method.toUpperCase()}\n${target}\n${timestamp}\n${digest}`;
}

async function hmacHex(secret: string, message: string): Promise<string> {
  const key = await crypto.subtle.importKey('raw', text.encode(secret), { name: 'HMAC', hash: 'SHA-256' }, false, [
    'sign',
  ]);
  return hex(new Uint8Array(await crypto.subtle.sign('HMAC', key, text.encode(message))));
}

/** Compares without telling by its time where the first difference is; the length is not secret. */
export function equalText(a: string, b: string): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(b.length === 0 ? 0 : i % b.length);
  return difference === 0;
}
