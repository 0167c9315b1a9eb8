/** Which web origins a setting names. The door and its start read it by the same words. */

/**
 * @param text comma-separated: origins (`https://app.example.com`), all sub-domains (`https://*.example.com`), any port (`http://localhost:*`), or `*`
 * alone for every page. Credentials are never allowed: keys travel in `authorization`, not in cookies.
 * @returns whether an `Origin` header may call
 * @throws Error in words for an entry that is none of these
 */
export function parseOrigins(text: string): { readonly any: boolean; allows(origin: string): boolean } | null {
  const entries = text
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '');
  if (entries.length === 0) return null;
  if (entries.length === 1 && entries[0] === '*') return { any: true, allows: () => true };
  const matchers = entries.map(matcherOf);
  return { any: false, allows: (origin) => matchers.some((matches) => matches(origin)) };
}

const ENTRY = /^(https?):\/\/(\*\.)?([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}|\*))?$/;
const LABELS = /^[a-z0-9-]+(\.[a-z0-9-]+)*$/;

function matcherOf(entry: string): (origin: string) => boolean {
  const match = ENTRY.exec(entry);
  const [, scheme, wild, host = '', port] = match ?? [];
  if (match === null || (wild !== undefined && !host.includes('.'))) {
    throw new Error(
      `MANTIS_CORS_ORIGINS: expected origins such as https://app.example.com, https://*.example.com or http://localhost:*, or * alone; received ${JSON.stringify(entry.slice(0, 200))}`,
    );
  }
  if (wild === undefined && port !== '*') {
    // Browsers leave the scheme's own port out.
    const origin = new URL(entry).origin;
    return (given) => given === origin;
  }
  return (given) => {
    const parts = /^(https?):\/\/([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?$/.exec(given);
    if (parts === null || parts[1] !== scheme) return false;
    const [, , givenHost = '', givenPort] = parts;
    const isHost =
      wild === undefined
        ? givenHost === host
        : givenHost.endsWith(`.${host}`) && LABELS.test(givenHost.slice(0, -host.length - 1));
    return isHost && (port === '*' || givenPort === (isDefaultPort(scheme, port) ? undefined : port));
  };
}

const isDefaultPort = (scheme: string | undefined, port: string | undefined): boolean =>
  port === (scheme === 'https' ? '443' : '80');
