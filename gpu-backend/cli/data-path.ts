import { existsSync } from 'node:fs';

/** The path of `--data [task=]path`. A file whose own name has such a form is meant itself. */
export function pathOf(data: string): string {
  const at = data.indexOf('=');
  return at > 0 && /^[a-z][a-z0-9-]*$/.test(data.slice(0, at)) && !existsSync(data) ? data.slice(at + 1) : data;
}
