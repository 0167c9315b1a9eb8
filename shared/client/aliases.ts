import type { Alias, AliasChange, CreateAliasRequest } from '../contract/aliases.ts';
import type { Deleted, List } from '../contract/files.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string };

/** Names for models, usable wherever a request names a `model`. */
export class Aliases {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  create(request: CreateAliasRequest): Promise<Alias> {
    return this.#http.json('/v1/aliases', { method: 'POST', json: request });
  }

  list(query: Page = {}): Promise<List<Alias>> {
    return this.#http.json('/v1/aliases', { query });
  }

  retrieve(name: string): Promise<Alias> {
    return this.#http.json(path(name));
  }

  describe(name: string, description: string | null): Promise<Alias> {
    return this.#http.json(path(name), { method: 'POST', json: { description } });
  }

  delete(name: string): Promise<Deleted> {
    return this.#http.json(path(name), { method: 'DELETE' });
  }

  promote(name: string, model: string, reason?: string): Promise<Alias> {
    const json = { model, ...(reason === undefined ? {} : { reason }) };
    return this.#http.json(`${path(name)}/promote`, { method: 'POST', json });
  }

  /** To the model before the current one; again, one step further back. */
  rollback(name: string, reason?: string): Promise<Alias> {
    const json = reason === undefined ? {} : { reason };
    return this.#http.json(`${path(name)}/rollback`, { method: 'POST', json });
  }

  /** Newest first. */
  history(name: string, query: Page = {}): Promise<List<AliasChange>> {
    return this.#http.json(`${path(name)}/history`, { query });
  }
}

const path = (name: string) => `/v1/aliases/${encodeURIComponent(name)}`;
