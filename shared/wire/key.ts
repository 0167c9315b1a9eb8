/**
 * The form of an API key: `mk_`, 43 base-62 characters (256 bits) and 6 that are their CRC-32, so that a fake, a slip of the hand or a cut copy is told
 * from a key without asking anybody. GitHub's tokens have the same form.
 */
import { LIMITS } from '../contract/limits.ts';
import { randomText } from './ids.ts';

const PREFIX = 'mk_';
const CHECK_CHARS = 6;
const FORM = new RegExp(`^${PREFIX}[0-9A-Za-z]{${LIMITS.keys.randomChars + CHECK_CHARS}}$`);
const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

/** A new key from the platform's cryptographic source. It is shown once and stored as its hash only. */
export function newApiKey(): string {
  const random = randomText(LIMITS.keys.randomChars);
  return PREFIX + random + checksum(PREFIX + random);
}

/** Whether a text has the form of a key and the right checksum; says nothing about whether anybody issued it. */
export function isWellFormedKey(key: string): boolean {
  return FORM.test(key) && key.slice(-CHECK_CHARS) === checksum(key.slice(0, -CHECK_CHARS));
}

/** CRC-32 in base 62, most significant digit first; 62⁶ > 2³². */
function checksum(text: string): string {
  let rest = crc32(text);
  let digits = '';
  for (let i = 0; i < CHECK_CHARS; i++) {
    digits = ALPHABET.charAt(rest % 62) + digits;
    rest = Math.floor(rest / 62);
  }
  return digits;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 (IEEE 802.3, as in gzip and PNG) of an ASCII text. */
export function crc32(ascii: string): number {
  let crc = 0xffffffff;
  for (let i = 0; i < ascii.length; i++) crc = (crc >>> 8) ^ TABLE[(crc ^ ascii.charCodeAt(i)) & 0xff]!;
  return (crc ^ 0xffffffff) >>> 0;
}
