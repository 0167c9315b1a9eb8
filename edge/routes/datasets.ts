/** Datasets: named lists of files that jobs and schedules train on, and that grow. */
import type { Context } from 'hono';
import { CreateDatasetRequest, Subset, UpdateDatasetRequest } from '../../shared/contract/datasets.ts';
import type { Deleted } from '../../shared/contract/files.ts';
import { changeDataset, makeDataset } from '../datasets/change.ts';
import { datasetNotFound } from '../datasets/spec.ts';
import { type AppEnv, actorOf } from '../env.ts';
import { readJson } from '../middleware/body.ts';
import { deleteDataset, getDataset, listDatasets, showDataset } from '../store/datasets.ts';
import { listQuery } from './query.ts';

export async function createDataset(c: Context<AppEnv>): Promise<Response> {
  const { name, subsets = [], balancing = false, metadata } = await readJson(c, CreateDatasetRequest);
  const fields = { name, subsets, balancing, metadata: metadata ?? null };
  return c.json(showDataset(await makeDataset(c.env, actorOf(c), fields)));
}

export async function listAllDatasets(c: Context<AppEnv>): Promise<Response> {
  return c.json(await listDatasets(c.env.DB, c.get('tenant'), listQuery(c)));
}

export async function retrieveDataset(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  const row = await getDataset(c.env.DB, c.get('tenant'), id);
  if (row === null) throw datasetNotFound(id);
  return c.json(showDataset(row));
}

/** What is given replaces what was. */
export async function updateDataset(c: Context<AppEnv>): Promise<Response> {
  const asked = await readJson(c, UpdateDatasetRequest);
  const row = await changeDataset(c.env, actorOf(c), c.req.param('id') ?? '', (was) => ({
    name: asked.name ?? was.name,
    subsets: asked.subsets ?? was.subsets,
    balancing: asked.balancing ?? was.balancing,
    metadata: asked.metadata === undefined ? was.metadata : asked.metadata,
  }));
  return c.json(showDataset(row));
}

/** One file more. The same file in the same way once more changes nothing. */
export async function appendToDataset(c: Context<AppEnv>): Promise<Response> {
  const subset = await readJson(c, Subset);
  const own = JSON.stringify(subset);
  const row = await changeDataset(c.env, actorOf(c), c.req.param('id') ?? '', (was) => ({
    ...was,
    subsets: was.subsets.some((known) => JSON.stringify(known) === own) ? was.subsets : [...was.subsets, subset],
  }));
  return c.json(showDataset(row));
}

/** Its files stay. Jobs that were made from it go on: they have their own list. */
export async function removeDataset(c: Context<AppEnv>): Promise<Response> {
  const id = c.req.param('id') ?? '';
  if (!(await deleteDataset(c.env.DB, actorOf(c), id))) throw datasetNotFound(id);
  const body: Deleted = { id, object: 'dataset', deleted: true };
  return c.json(body);
}
