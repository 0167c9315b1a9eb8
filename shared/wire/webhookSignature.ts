/** Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body` with a `whsec_` secret. */
const encoder = new TextEncoder();

/** A new secret: `whsec_` and the base64 of 32 random bytes. */
export function newWebhookSecret(): string {
  return `whsec_${base64(crypto.getRandomValues(new Uint8Array(32)))}`;
}

/**
 * Headers of one attempt. `id` stays the same over attempts, the timestamp (Unix seconds) is the attempt's own.
 * @param secrets each signs: during a rotation whoever still has the old one can verify too
 */
export async function webhookHeaders(
  id: string,
  timestampS: number,
  body: string,
  ...secrets: readonly string[]
): Promise<Record<string, string>> {
  const text = new Uint8Array(encoder.encode(`${id}.${timestampS}.${body}`));
  const signatures = await Promise.all(secrets.map(async (secret) => `v1,${await sign(secret, text)}`));
  return { 'webhook-id': id, 'webhook-timestamp': String(timestampS), 'webhook-signature': signatures.join(' ') };
}

async function sign(secret: string, text: BufferSource): Promise<string> {
  const raw = Uint8Array.from(atob(secret.replace(/^whsec_/, '')), (char) => char.charCodeAt(0));
  const key = await crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return base64(new Uint8Array(await crypto.subtle.sign('HMAC', key, text)));
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}
