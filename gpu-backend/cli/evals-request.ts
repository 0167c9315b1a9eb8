/** Files that become requests: read and checked here as the edge will, so that a mistake is told without a server. */
import { openAsBlob } from 'node:fs';
import { access } from 'node:fs/promises';
import { basename } from 'node:path';
import type { MantisClient } from '../../shared/client/client.ts';
import { violationsOf } from '../../shared/contract/errors.ts';
import { CreateEvalRunRequest } from '../../shared/contract/evals.ts';
import { readUserFile } from './api.ts';
import { CliError } from './error.ts';

type Schema<T> = {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: { issues: readonly unknown[] } };
};

/** @throws CliError with a line for everything that is wrong */
export async function readRequest<T>(path: string, schema: Schema<T>): Promise<T> {
  return parsed(await readJsonFile(path), schema, path);
}

export interface RunFlags {
  readonly model?: string;
  readonly name?: string;
  readonly data?: string;
}

/** The request of a run, from a file that holds the whole of it or its data source alone, with what the flags put in its place. */
export async function runRequest(client: MantisClient, file: string, flags: RunFlags): Promise<CreateEvalRunRequest> {
  const written = await readJsonFile(file);
  const whole = isRecord(written) && 'data_source' in written ? { ...written } : { data_source: written };
  const source = isRecord(whole.data_source) ? { ...whole.data_source } : whole.data_source;
  if (isRecord(source)) {
    if (flags.model !== undefined) source.model = flags.model;
    if (flags.data !== undefined) {
      const uploaded = await client.files.create(await dataFile(flags.data), basename(flags.data), 'evals');
      source.source = { type: 'file_id', id: uploaded.id };
    }
  }
  const request = { ...whole, data_source: source, ...(flags.name === undefined ? {} : { name: flags.name }) };
  return parsed(request, CreateEvalRunRequest, file);
}

async function dataFile(path: string): Promise<Blob> {
  try {
    await access(path);
    return await openAsBlob(path);
  } catch (error) {
    throw new CliError(`--data: cannot read ${path}: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}

function parsed<T>(value: unknown, schema: Schema<T>, name: string): T {
  const read = schema.safeParse(value);
  if (read.success) return read.data;
  const wrong = violationsOf(read.error.issues, value).map(({ message }) => message);
  throw new CliError(`${name}: ${wrong.join('\n')}`, 2);
}

async function readJsonFile(path: string): Promise<unknown> {
  const text = (await readUserFile(path)).toString('utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CliError(`${path}: expected JSON: ${error instanceof Error ? error.message : String(error)}`, 2);
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
