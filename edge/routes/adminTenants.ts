/** Tenants, for the installation's operator: keys with the scope `admin`. */
import type { Context } from 'hono';
import { ApiError, describe, errorMessage, violation } from '../../shared/contract/errors.ts';
import { CreateTenantRequest, DEFAULT_TENANT, UpdateTenantRequest } from '../../shared/contract/keys.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { hex } from '../../shared/wire/signature.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import {
  countTenants,
  createTenant,
  getTenant,
  listTenants,
  showTenant,
  type TenantRow,
  updateTenant,
} from '../store/tenants.ts';
import { listQuery } from './query.ts';

/** `POST /v1/admin/tenants`. */
export async function createTenantRoute(c: Context<AppEnv>): Promise<Response> {
  const { name, limits = {} } = await readJson(c, CreateTenantRequest);
  const count = await countTenants(c.env.DB);
  if (count >= LIMITS.keys.maxTenants) {
    throw ApiError.from([
      violation('invalid_value', null, { expected: `at most ${LIMITS.keys.maxTenants} tenants`, received: count + 1 }),
    ]);
  }
  const id = hex(crypto.getRandomValues(new Uint8Array(16)));
  await createTenant(c.env.DB, actorOf(c), { id, name, limits, createdAtMs: Date.now() });
  return c.json(showTenant(await existingTenant(c, id)));
}

/** `GET /v1/admin/tenants`. */
export async function listTenantsRoute(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listTenants(c.env.DB, listQuery(c)));
}

/** `GET /v1/admin/tenants/{id}`. */
export async function retrieveTenant(c: Context<AppEnv>): Promise<Response> {
  return c.json(showTenant(await existingTenant(c)));
}

/** `POST /v1/admin/tenants/{id}`. */
export async function updateTenantRoute(c: Context<AppEnv>): Promise<Response> {
  const tenant = await existingTenant(c);
  const change = await readJson(c, UpdateTenantRequest);
  if (change.disabled === true && tenant.id === DEFAULT_TENANT) {
    throw new ApiError(
      'invalid_state',
      'disabled: the default tenant holds the keys that administer; it stays enabled.',
      {
        param: 'disabled',
      },
    );
  }
  await updateTenant(c.env.DB, actorOf(c), tenant, change, Date.now());
  return c.json(showTenant(await existingTenant(c)));
}

/** @throws ApiError `tenant_not_found`. @param param the field that named it */
export async function existingTenant(
  c: Context<AppEnv>,
  id: string = c.req.param('id') ?? '',
  param = 'id',
): Promise<TenantRow> {
  const tenant = await getTenant(c.env.DB, id);
  if (tenant !== null) return tenant;
  throw new ApiError(
    'tenant_not_found',
    errorMessage(param, {
      expected: 'the id of a tenant',
      received: describe(id),
      remedy: 'GET /v1/admin/tenants lists them.',
    }),
    { param },
  );
}
