/** API keys, tenants, scopes, and which scope each part of the API wants. */
import * as z from 'zod/mini';
import { LIMITS } from './limits.ts';

/** Owner of everything that was there before there were tenants, and of the operator's own key. */
export const DEFAULT_TENANT = '0'.repeat(32);

/** What a key may do. `read` is for looking only: every GET of its tenant's things, administration excepted. */
export const Scope = z.enum(['inference', 'files', 'fine_tuning', 'batches', 'webhooks', 'usage', 'read', 'admin']);
export type Scope = z.infer<typeof Scope>;

/** Everything; what the first key has. `read` adds nothing to the others. */
export const ALL_SCOPES: readonly Scope[] = Scope.options.filter((scope) => scope !== 'read');

/** What keys have that are created without `scopes`: everything but administration. */
export const DEFAULT_SCOPES: readonly Scope[] = ALL_SCOPES.filter((scope) => scope !== 'admin');

/**
 * What a path wants: `open` nothing, `any_key` a key, `signature` a backend's, else a key with that scope. Paths that stand in no row do not exist, so
 * that a route which somebody adds is closed until a row is added here.
 */
export type Access = 'open' | 'any_key' | 'signature' | Scope;

/** By the longest prefix that ends where a segment ends. `=` in front: this path only. */
const ACCESS: readonly (readonly [prefix: string, access: Access])[] = [
  ['/health', 'open'],
  ['=/openapi.json', 'open'],
  ['=/version', 'open'],
  ['=/metrics', 'admin'],
  // Their links are signed.
  ['/reports', 'open'],
  ['/internal', 'signature'],
  ['/v1/chat', 'inference'],
  ['/v1/score', 'inference'],
  ['/v1/images', 'inference'],
  ['/v1/models', 'any_key'],
  ['/v1/limits', 'any_key'],
  ['/v1/files', 'files'],
  ['/v1/uploads', 'files'],
  ['/v1/batches', 'batches'],
  ['/v1/fine_tuning', 'fine_tuning'],
  ['/v1/datasets', 'fine_tuning'],
  ['/v1/dataset_validations', 'fine_tuning'],
  ['/v1/schedules', 'fine_tuning'],
  ['/v1/aliases', 'fine_tuning'],
  ['/v1/evals', 'inference'],
  ['/v1/webhook_endpoints', 'webhooks'],
  ['/v1/webhook_deliveries', 'webhooks'],
  ['/v1/webhook_events', 'webhooks'],
  ['/v1/usage', 'usage'],
  ['/v1/admin', 'admin'],
];

/** What a request for `path` (as the router sees it) must show; null where there is nothing. */
export function accessOf(path: string): Access | null {
  let found: Access | null = null;
  let longest = 0;
  for (const [rule, access] of ACCESS) {
    const prefix = rule.startsWith('=') ? rule.slice(1) : rule;
    const fits = path === prefix || (prefix === rule && path.startsWith(`${prefix}/`));
    if (fits && prefix.length > longest) {
      found = access;
      longest = prefix.length;
    }
  }
  return found;
}

/** Scopes any one of which lets a request pass; null where any key does. */
export function scopesFor(access: Exclude<Access, 'open' | 'signature'>, method: string): readonly Scope[] | null {
  const looks = method === 'GET' || method === 'HEAD';
  // What may be changed there are fine-tuned models.
  if (access === 'any_key') return looks ? null : ['fine_tuning'];
  return looks && access !== 'admin' ? [access, 'read'] : [access];
}

const Amount = z.optional(z.nullable(z.int().check(z.gte(0), z.lte(LIMITS.keys.maxLimit))));

/** What a key may use; null or left out: the tenant's, then the installation's, then unlimited. */
export const KeyLimitsInput = z.strictObject({
  requestsPerMinute: Amount,
  imagesPerMinute: Amount,
  imageTokensPerMinute: Amount,
  bytesPerMinute: Amount,
  concurrent: Amount,
});
export type KeyLimitsInput = z.infer<typeof KeyLimitsInput>;

const Shown = z.nullable(z.int());
export const KeyLimits = z.object({
  requestsPerMinute: Shown,
  imagesPerMinute: Shown,
  imageTokensPerMinute: Shown,
  bytesPerMinute: Shown,
  concurrent: Shown,
});
export type KeyLimits = z.infer<typeof KeyLimits>;

/** The first of several that says something, field by field. */
export function mergeLimits(...all: readonly KeyLimitsInput[]): KeyLimits {
  const first = (field: keyof KeyLimits) => all.map((limits) => limits[field]).find((value) => value != null) ?? null;
  return {
    requestsPerMinute: first('requestsPerMinute'),
    imagesPerMinute: first('imagesPerMinute'),
    imageTokensPerMinute: first('imageTokensPerMinute'),
    bytesPerMinute: first('bytesPerMinute'),
    concurrent: first('concurrent'),
  };
}

const Name = z.string().check(z.minLength(1), z.maxLength(LIMITS.keys.maxNameChars));
const Tenant32 = z.string().check(z.regex(/^[0-9a-f]{32}$/, '32 lower-case hexadecimal digits'));
const Scopes = z.array(Scope).check(z.minLength(1), z.maxLength(Scope.options.length));
const ExpiresAt = z.optional(z.nullable(z.int().check(z.gte(1))));

/** `POST /v1/admin/keys`. `expires_at` is Unix seconds. */
export const CreateKeyRequest = z.strictObject({
  name: Name,
  tenant: z.optional(Tenant32),
  scopes: z.optional(Scopes),
  expires_at: ExpiresAt,
  limits: z.optional(KeyLimitsInput),
});
export type CreateKeyRequest = z.infer<typeof CreateKeyRequest>;

/** `POST /v1/admin/keys/{id}`: what is left out stays. `limits` are replaced as a whole. */
export const UpdateKeyRequest = z.strictObject({
  name: z.optional(Name),
  scopes: z.optional(Scopes),
  expires_at: ExpiresAt,
  limits: z.optional(KeyLimitsInput),
});
export type UpdateKeyRequest = z.infer<typeof UpdateKeyRequest>;

/** `POST /v1/admin/keys/{id}/rotate`. The old secret works for `overlap_s` more, 24 h if left out, 0 = not at all. */
export const RotateKeyRequest = z.strictObject({
  overlap_s: z.optional(z.int().check(z.gte(0), z.lte(LIMITS.keys.maxOverlapS))),
});
export type RotateKeyRequest = z.infer<typeof RotateKeyRequest>;

/** `secret` is in the answer that creates it and nowhere else. Times are Unix seconds. */
export const ApiKey = z.object({
  id: z.string(),
  object: z.literal('api_key'),
  tenant: z.string(),
  name: z.string(),
  last4: z.string(),
  scopes: z.array(Scope),
  limits: KeyLimits,
  status: z.enum(['active', 'expired', 'revoked']),
  created_at: z.int(),
  expires_at: z.nullable(z.int()),
  revoked_at: z.nullable(z.int()),
  last_used_at: z.nullable(z.int()),
  rotated_to: z.nullable(z.string()),
  secret: z.optional(z.string()),
});
export type ApiKey = z.infer<typeof ApiKey>;

/** `POST /v1/admin/tenants`. */
export const CreateTenantRequest = z.strictObject({ name: Name, limits: z.optional(KeyLimitsInput) });
export type CreateTenantRequest = z.infer<typeof CreateTenantRequest>;

/** `POST /v1/admin/tenants/{id}`: a disabled tenant's keys are refused as if they were revoked. */
export const UpdateTenantRequest = z.strictObject({
  name: z.optional(Name),
  limits: z.optional(KeyLimitsInput),
  disabled: z.optional(z.boolean()),
});
export type UpdateTenantRequest = z.infer<typeof UpdateTenantRequest>;

export const Tenant = z.object({
  id: z.string(),
  object: z.literal('tenant'),
  name: z.string(),
  limits: KeyLimits,
  status: z.enum(['active', 'disabled']),
  created_at: z.int(),
});
export type Tenant = z.infer<typeof Tenant>;

/** Who asks, once the key was checked: what middleware leaves for handlers. */
export type Caller = { keyId: string; tenant: string; scopes: readonly Scope[]; limits: KeyLimits };
