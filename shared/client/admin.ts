/** The administration of an installation, for keys with the scope `admin`: tenants, API keys, audit log. */
import type { AuditEntry, AuditVerdict } from '../contract/audit.ts';
import type { List } from '../contract/files.ts';
import type {
  ApiKey,
  CreateKeyRequest,
  CreateTenantRequest,
  Tenant,
  UpdateKeyRequest,
  UpdateTenantRequest,
} from '../contract/keys.ts';
import type { Http } from './http.ts';

type Page = { limit?: number; after?: string };
/** `secret` is in this answer only. */
export type NewApiKey = ApiKey & { secret: string };

export class Admin {
  readonly #http: Http;

  constructor(http: Http) {
    this.#http = http;
  }

  readonly tenants = {
    create: (request: CreateTenantRequest): Promise<Tenant> => this.#post('/tenants', request),
    list: (query: Page = {}): Promise<List<Tenant>> => this.#http.json('/v1/admin/tenants', { query }),
    retrieve: (id: string): Promise<Tenant> => this.#http.json(`/v1/admin/tenants/${encodeURIComponent(id)}`),
    update: (id: string, request: UpdateTenantRequest): Promise<Tenant> =>
      this.#post(`/tenants/${encodeURIComponent(id)}`, request),
  };

  readonly keys = {
    create: (request: CreateKeyRequest): Promise<NewApiKey> => this.#post('/keys', request),
    list: (query: Page & { tenant?: string } = {}): Promise<List<ApiKey>> =>
      this.#http.json('/v1/admin/keys', { query }),
    retrieve: (id: string): Promise<ApiKey> => this.#http.json(`/v1/admin/keys/${encodeURIComponent(id)}`),
    update: (id: string, request: UpdateKeyRequest): Promise<ApiKey> =>
      this.#post(`/keys/${encodeURIComponent(id)}`, request),
    /** The old secret works for `overlapS` more (24 h if left out). */
    rotate: (id: string, overlapS?: number): Promise<NewApiKey> =>
      this.#post(`/keys/${encodeURIComponent(id)}/rotate`, overlapS === undefined ? {} : { overlap_s: overlapS }),
    revoke: (id: string): Promise<ApiKey> => this.#post(`/keys/${encodeURIComponent(id)}/revoke`, undefined),
  };

  readonly audit = {
    list: (query: Page & { tenant?: string; target?: string; action?: string } = {}): Promise<List<AuditEntry>> =>
      this.#http.json('/v1/admin/audit', { query }),
    verify: (): Promise<AuditVerdict> => this.#post('/audit/verify', undefined),
  };

  #post<T>(path: string, json: unknown): Promise<T> {
    return this.#http.json<T>(`/v1/admin${path}`, { method: 'POST', ...(json === undefined ? {} : { json }) });
  }
}
