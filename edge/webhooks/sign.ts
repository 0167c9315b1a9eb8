/** Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body` with a `whsec_` secret. */
const encoder = new TextEncoder();

/** A new secret: `whsec_` and the base64 of 32 random bytes. */
export function newWebhookSecret(): string {
  return `whsec_${base64(crypto.getRandomValues(new Uint8Array(32)))}`;
}

/** Headers of one attempt. `id` stays the same over attempts, the timestamp (Unix seconds) is the attempt's own. */
export async function webhookHeaders(
  id: string,
  timestampS: number,
  body: string,
  secret: string,
): Promise<Record<string, string>> {
  const raw = Uint8Array.from(atob(secret.replace(/^whsec_/, '')), (char) => char.charCodeAt(0));
  const key = await crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const mac = await crypto.subtle.sign('HMAC', key, encoder.encode(`${id}.${timestampS}.${body}`));
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestampS),
    'webhook-signature': `v1,${base64(new Uint8Array(mac))}`,
  };
}

function base64(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes));
}
