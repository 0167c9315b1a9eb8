/** Which addresses a webhook may have. What a name resolves to is checked by the runtime when it connects (`Env.PUBLIC_NETWORK`). */
import { describe, errorMessage } from '../../shared/contract/errors.ts';

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

/**
 * Checks a target by its spelling.
 * @param allowed private `host:port`s that development may reach, over http too.
 * @returns the URL and the network it must go through, or what is wrong.
 */
export function checkTarget(
  text: string,
  allowed: ReadonlySet<string>,
): { url: URL; network: 'public' | 'private' } | { problem: string } {
  const refuse = (expected: string) => ({ problem: errorMessage('url', { expected, received: describe(text) }) });
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    return refuse('an absolute URL');
  }
  if (url.protocol !== 'https:' && url.protocol !== 'http:') return refuse('an https URL');
  if (url.username !== '' || url.password !== '') return refuse('a URL without user name and password');
  if (allowed.has(hostAndPort(url))) return { url, network: 'private' };
  if (url.protocol !== 'https:') return refuse('an https URL (http only for hosts in MANTIS_EGRESS_ALLOW)');
  if (url.port !== '') return refuse('port 443 (others only for hosts in MANTIS_EGRESS_ALLOW)');
  // Literal addresses have no certificate a receiver could have meant, and local names no public meaning.
  const host = url.hostname.replace(/\.$/, '');
  if (
    host.startsWith('[') ||
    /^[\d.]+$/.test(host) ||
    !host.includes('.') ||
    /\.(localhost|localdomain|local|internal|lan|home|arpa)$/.test(host)
  ) {
    return refuse('a public host name');
  }
  return { url, network: 'public' };
}
