import { existsSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { MantisClient } from '../../shared/client/client.ts';
import { EngineEvalModel } from '../engine/eval-model.ts';
import { choosePrecision } from '../engine/precision-choice.ts';
import { openAiModel } from '../eval/models/openai.ts';
import type { EvalModel, Json } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { EvalFlags } from './eval-options.ts';
import { readPrecision, tablesFolder } from './precision.ts';

const BUNDLED_MODEL = fileURLToPath(new URL('../models/nano', import.meta.url));
const INSTALLATION = 'http://127.0.0.1:8787';
/** Rows that the generating engine runs at once. */
const ROWS = 16;

/**
 * The model that the command line names: a folder is loaded into this process; with `--base-url` it is a model of that endpoint; any other name is one of the
 * installation at MANTIS_BASE_URL.
 */
export async function evalModel(flags: EvalFlags): Promise<EvalModel> {
  const { model = BUNDLED_MODEL, baseUrl, overlay } = flags;
  if (baseUrl !== undefined) {
    if (flags.model === undefined) throw new CliError('--base-url needs --model, the name of a model there', 2);
    return endpointModel(flags, { model, baseUrl, keyName: flags.apiKeyEnv });
  }
  if (existsSync(model) && statSync(model).isDirectory()) return await folderModel(flags, model);
  if (/^[./~]/.test(model)) throw new CliError(`--model: there is no folder ${model}`, 2);
  if (overlay !== undefined) throw new CliError('--overlay needs --model to be a checkpoint folder', 2);
  return await servedModel(flags, model);
}

/** The model that reads answers, undefined where none is named. */
export async function judgeModel(flags: EvalFlags): Promise<EvalModel | undefined> {
  const { judge, judgeBaseUrl = flags.baseUrl, judgeApiKeyEnv = flags.apiKeyEnv } = flags;
  if (judge === undefined) return undefined;
  if (judgeBaseUrl === undefined) return await evalModel({ ...withoutEndpoint(flags), model: judge });
  return endpointModel(flags, { model: judge, baseUrl: judgeBaseUrl, keyName: judgeApiKeyEnv });
}

function withoutEndpoint({ baseUrl: _, overlay: __, request: ___, ...flags }: EvalFlags): EvalFlags {
  return flags;
}

async function folderModel(flags: EvalFlags, dir: string): Promise<EvalModel> {
  const threads = flags.threads ?? availableParallelism();
  const { storage, kv } = await choosePrecision(readPrecision(flags), {
    dirs: [dir],
    device: 'cpu',
    threads,
    maxRows: ROWS,
    tables: tablesFolder(),
  });
  return await EngineEvalModel.open({
    dir,
    ...(flags.overlay === undefined ? {} : { overlayDir: flags.overlay }),
    threads,
    compile: { kv, ...(storage === undefined ? {} : { storage }) },
  });
}

function endpointModel(
  flags: EvalFlags,
  at: { readonly model: string; readonly baseUrl: string; readonly keyName: string | undefined },
): EvalModel {
  const apiKey = keyFrom(at.keyName, 'OPENAI_API_KEY');
  try {
    return openAiModel({
      model: at.model,
      baseUrl: at.baseUrl,
      ...(apiKey === undefined ? {} : { apiKey }),
      ...requestSettings(flags),
    });
  } catch (error) {
    throw new CliError(error instanceof Error ? error.message : String(error), 2);
  }
}

/** A model of an installation of this product, which compares options by likelihood and says since when it has had it. */
async function servedModel(flags: EvalFlags, model: string): Promise<EvalModel> {
  const origin = (process.env.MANTIS_BASE_URL ?? INSTALLATION).replace(/\/(v1\/?)?$/, '');
  const apiKey = keyFrom(flags.apiKeyEnv, 'MANTIS_API_KEY');
  if (apiKey === undefined)
    throw new CliError(`${model} is no folder; to ask the installation at ${origin} for it, set MANTIS_API_KEY`, 2);
  const card = await new MantisClient({ baseUrl: origin, apiKey }).models.retrieve(model).catch((error: unknown) => {
    throw new CliError(
      `${model} is no folder, and ${origin} does not serve it: ${error instanceof Error ? error.message : String(error)}`,
      2,
    );
  });
  return openAiModel({
    model,
    baseUrl: `${origin}/v1`,
    apiKey,
    choices: 'score',
    // A folder that was written anew is another model.
    facts: { created: card.created },
    ...requestSettings(flags),
  });
}

function requestSettings({ atOnce, timeout, request }: EvalFlags) {
  return {
    ...(atOnce === undefined ? {} : { atOnce }),
    timeoutMs: timeout * 1000,
    ...(request === undefined ? {} : { request: readRequest(request) }),
  };
}

function readRequest(text: string): { readonly [field: string]: Json } {
  try {
    const value = JSON.parse(text) as Json;
    if (value !== null && typeof value === 'object' && !Array.isArray(value))
      return value as { readonly [field: string]: Json };
  } catch {
    // Said below.
  }
  throw new CliError(`--request: expected a JSON object such as {"reasoning_effort":"low"}, received ${text}`, 2);
}

/** A key is named, never given: command lines are seen by others. A name that was given must hold one. */
function keyFrom(named: string | undefined, otherwise: string): string | undefined {
  const key = process.env[named ?? otherwise];
  if (named !== undefined && (key === undefined || key === ''))
    throw new CliError(`--api-key-env: the environment has no ${named}`, 2);
  return key === '' ? undefined : key;
}
