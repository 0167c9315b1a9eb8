import type { Context } from 'hono';
import { openApiDocument } from '../../shared/openapi.ts';
import type { AppEnv } from '../env.ts';

let document: string | null = null;

/** `GET /openapi.json`: made once an isolate. */
export function openApi(c: Context<AppEnv>): Response {
  document ??= JSON.stringify(openApiDocument());
  return c.body(document, 200, { 'content-type': 'application/json' });
}
