/**
 * Which addresses the edge may call for a client: pictures on the web, webhooks, and every redirect on the way. Here a target is judged by its spelling;
 * what its name resolves to is judged by the runtime when it connects (`fetch.ts`). Both use the one parsed URL, so that no second parser can read another
 * host from it.
 */
import { describe, errorMessage } from '../../shared/contract/errors.ts';

/** Where a call may go, and through which network. `private` only for what development allows by name. */
export type Target = { url: URL; network: 'public' | 'private' };

/** `host:port` with the scheme's default port filled in. */
export function hostAndPort(url: URL): string {
  return `${url.hostname}:${url.port || (url.protocol === 'https:' ? '443' : '80')}`;
}

/** `"a:1, b:2"` → set. */
export function parseAllowList(text: string): ReadonlySet<string> {
  return new Set(
    text
      .split(',')
      .map((entry) => entry.trim().toLowerCase())
      .filter((entry) => entry !== ''),
  );
}

/** Last labels that mean nothing, or something private, on the public internet: RFC 6761, 6762, 7686, 8375, ICANN's `.internal`, and local habits. */
const PRIVATE_SUFFIXES = new Set([
  ...['localhost', 'localdomain', 'local', 'internal', 'intranet', 'private', 'corp', 'home', 'lan', 'arpa'],
  ...['test', 'example', 'invalid', 'onion', 'alt', 'svc', 'cluster', 'default'],
]);
/** Names of cloud metadata services below public suffixes. */
const METADATA_NAMES = new Set(['metadata.goog', 'metadata.azure.com', 'metadata.packet.net']);

const MAX_HOST_CHARS = 253;

/** What browsers forgive and other readers of URLs understand in another way. */
const AMBIGUOUS = /[\\\p{Cc}\p{Cf}\p{Z}]/u;

/**
 * Checks a target by its spelling.
 * @param allowed private `host:port`s that development may reach, over http too.
 * @returns the URL and the network it must go through, or what is wrong.
 */
export function checkTarget(text: string, allowed: ReadonlySet<string>): Target | { problem: string } {
  const refuse = (expected: string) => ({ problem: errorMessage('url', { expected, received: describe(text) }) });
  if (AMBIGUOUS.test(text)) return refuse('a URL without spaces, control characters and backslashes');
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return refuse('an absolute URL');
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return refuse('an https URL');
  if (!/^https?:\/\/[^/]/i.test(text)) return refuse('a URL that begins with https:// and a host');
  if (url.username !== '' || url.password !== '' || text.slice(0, authorityEnd(text)).includes('@'))
    return refuse('a URL without user name and password');
  if (allowed.has(hostAndPort(url))) return { url, network: 'private' };
  if (url.protocol !== 'https:') return refuse('an https URL (http only for hosts in MANTIS_EGRESS_ALLOW)');
  if (url.port !== '') return refuse('port 443 (others only for hosts in MANTIS_EGRESS_ALLOW)');
  if (!isPublicName(url.hostname)) return refuse('a public host name');
  return { url, network: 'public' };
}

/** Where the part of an absolute URL that names the host ends. */
function authorityEnd(text: string): number {
  const end = text.slice(8).search(/[/?#]/);
  return end < 0 ? text.length : end + 8;
}

/**
 * Whether a canonical host (of a parsed URL) is a name that may mean something on the public internet. Literal addresses are not: hardly any has a
 * certificate, and each of their spellings is one more way around a list.
 */
function isPublicName(hostname: string): boolean {
  const host = hostname.replace(/\.$/, '');
  if (host.length > MAX_HOST_CHARS || METADATA_NAMES.has(host)) return false;
  const labels = host.split('.');
  const last = labels.at(-1) ?? '';
  if (labels.length < 2 || PRIVATE_SUFFIXES.has(last)) return false;
  // Leaves out IPv6 literals, IPv4 addresses in every spelling, and what no registry could have given away.
  return labels.every((label) => /^[a-z\d_-]{1,63}$/.test(label)) && /[a-z]/.test(last);
}
