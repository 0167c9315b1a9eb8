const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** Prefixes in OpenAI's spelling; clients treat ids as opaque. */
export type IdPrefix =
  | 'chatcmpl-'
  | 'file-'
  | 'ftjob-'
  | 'ftevent-'
  | 'ftckpt_'
  | 'whe_'
  | 'evt_'
  | 'req_'
  | 'key_'
  | 'audit_'
  | 'upload_'
  | 'part_'
  | 'batch_'
  | 'batch_req_'
  | 'dataset_'
  | 'dsval_'
  | 'cmp_'
  | 'eval_'
  | 'evalrun_'
  | 'outputitem_'
  | 'sched_'
  | 'schedrun_'
  | 'alch_';

/** A new id: prefix and 24 base-62 characters (about 142 bits) from the platform's cryptographic source. */
export function newId(prefix: IdPrefix): string {
  return prefix + randomText(24);
}

/** `length` base-62 characters, uniformly drawn (bytes ≥ 248 are thrown away: 248 = 4 × 62). */
export function randomText(length: number): string {
  let text = '';
  while (text.length < length) {
    for (const byte of crypto.getRandomValues(new Uint8Array(length * 2))) {
      if (byte < 248 && text.length < length) text += ALPHABET.charAt(byte % 62);
    }
  }
  return text;
}
