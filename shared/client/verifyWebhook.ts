/** The receiver's side of webhooks: whether a delivery is genuine, recent, and new. */
import { LIMITS } from '../contract/limits.ts';
import { WebhookEvent } from '../contract/webhooks.ts';

/** Why a delivery is refused. */
export class WebhookVerificationError extends Error {
  override readonly name = 'WebhookVerificationError';
  constructor(
    readonly reason: 'headers' | 'timestamp' | 'signature' | 'body',
    message: string,
  ) {
    super(message);
  }
}

/** Remembers events. `add` says whether the id was new; a store that outlives the process can stand behind it. */
export type SeenEvents = { add(id: string): boolean | Promise<boolean>; delete(id: string): unknown };

export type VerifierOptions = {
  /** How far the sender's clock and this one may be apart, in both directions. Default 300 s. */
  toleranceS?: number;
  /** Default: the last 10,000 ids, in memory. */
  seen?: SeenEvents;
  nowMs?: () => number;
};

export type VerifiedWebhook = {
  event: WebhookEvent;
  /** The event has been here before: a retry whose first answer was lost, or a recording that somebody plays back. Answer 200 and do nothing. */
  isRepeat: boolean;
};

const MAX_SEEN = 10_000;
const encoder = new TextEncoder();

/**
 * Verifies deliveries after Standard Webhooks 1.0. During a rotation give both secrets, or the new one: deliveries are signed with both.
 *
 *     const verifier = new WebhookVerifier(process.env.WEBHOOK_SECRET);
 *     const { event, isRepeat } = await verifier.verify(body, request.headers);
 */
export class WebhookVerifier {
  readonly #keys: Promise<CryptoKey>[];
  readonly #toleranceS: number;
  readonly #seen: SeenEvents;
  readonly #nowMs: () => number;

  /** @param secrets `whsec_…`, as it was shown */
  constructor(secrets: string | readonly string[], options: VerifierOptions = {}) {
    const all = typeof secrets === 'string' ? [secrets] : secrets;
    if (all.length === 0) throw new Error('WebhookVerifier: expected at least one secret, received none');
    this.#keys = all.map(importSecret);
    // Whoever never verifies has not to be told.
    for (const key of this.#keys) key.catch(() => {});
    this.#toleranceS = options.toleranceS ?? LIMITS.webhooks.toleranceS;
    this.#seen = options.seen ?? new RecentIds(MAX_SEEN);
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /**
   * @param body exactly as it came
   * @throws WebhookVerificationError
   */
  async verify(
    body: string,
    headers: Headers | Readonly<Record<string, string | string[] | undefined>>,
  ): Promise<VerifiedWebhook> {
    const id = header(headers, 'webhook-id');
    const timestamp = header(headers, 'webhook-timestamp');
    const signatures = header(headers, 'webhook-signature');
    // A dot would let parts of the signed text change places.
    if (id.includes('.')) throw new WebhookVerificationError('headers', 'webhook-id: expected an id without dots');
    if (!/^\d{1,12}$/.test(timestamp))
      throw new WebhookVerificationError('timestamp', 'webhook-timestamp: expected whole seconds since 1970');
    const apartS = Math.abs(this.#nowMs() / 1000 - Number(timestamp));
    // Whole seconds on one side: the second that has begun counts.
    if (Math.floor(apartS) > this.#toleranceS)
      throw new WebhookVerificationError(
        'timestamp',
        `webhook-timestamp: expected at most ${this.#toleranceS} s from now, received ${Math.floor(apartS)} s`,
      );
    if (!(await this.#isSigned(encoder.encode(`${id}.${timestamp}.${body}`), signatures)))
      throw new WebhookVerificationError('signature', 'webhook-signature: none of the signatures is right');
    const event = parse(body);
    if (event === null || event.id !== id)
      throw new WebhookVerificationError('body', 'the body is no event with the id of the header webhook-id');
    return { event, isRepeat: !(await this.#seen.add(id)) };
  }

  /** Lets an event come again: for whoever could not work it off and answers with an error. */
  async forget(id: string): Promise<void> {
    await this.#seen.delete(id);
  }

  async #isSigned(text: Uint8Array<ArrayBuffer>, signatures: string): Promise<boolean> {
    for (const part of signatures.split(' ')) {
      const mac = part.startsWith('v1,') ? fromBase64(part.slice(3)) : null;
      if (mac === null || mac.length !== 32) continue;
      // Compares in constant time.
      for (const key of this.#keys) if (await crypto.subtle.verify('HMAC', await key, mac, text)) return true;
    }
    return false;
  }
}

/** The newest `size` ids. */
export class RecentIds implements SeenEvents {
  readonly #ids = new Set<string>();
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  add(id: string): boolean {
    if (this.#ids.has(id)) return false;
    this.#ids.add(id);
    const [oldest] = this.#ids;
    if (this.#ids.size > this.#size && oldest !== undefined) this.#ids.delete(oldest);
    return true;
  }

  delete(id: string): void {
    this.#ids.delete(id);
  }
}

async function importSecret(secret: string): Promise<CryptoKey> {
  const raw = fromBase64(secret.replace(/^whsec_/, ''));
  if (raw === null || raw.length < 24)
    throw new Error('WebhookVerifier: expected a secret whsec_… of at least 24 bytes in base64');
  return crypto.subtle.importKey('raw', raw, { name: 'HMAC', hash: 'SHA-256' }, false, ['verify']);
}

/** Null where it is no base64 in its one right spelling. */
function fromBase64(text: string): Uint8Array<ArrayBuffer> | null {
  try {
    const binary = atob(text);
    return btoa(binary) === text ? Uint8Array.from(binary, (char) => char.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

function header(headers: Headers | Readonly<Record<string, string | string[] | undefined>>, name: string): string {
  const value = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof value !== 'string' || value === '')
    throw new WebhookVerificationError('headers', `${name}: expected one header of this name`);
  return value;
}

function parse(body: string): WebhookEvent | null {
  try {
    const parsed = WebhookEvent.safeParse(JSON.parse(body));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}
