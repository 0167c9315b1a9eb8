import { existsSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { MantisClient } from '../../shared/client/client.ts';
import { EngineEvalModel } from '../engine/eval-model.ts';
import { choosePrecision } from '../engine/precision-choice.ts';
import type { EndpointRetry } from '../eval/models/endpoint.ts';
import { openAiModel } from '../eval/models/openai.ts';
import type { EvalModel, Json } from '../eval/task.ts';
import { CliError } from './error.ts';
import type { ModelPlace } from './eval-check.ts';
import type { EvalFlags } from './eval-options.ts';
import { readPrecision, tablesFolder } from './precision.ts';

const BUNDLED_MODEL = fileURLToPath(new URL('../models/nano', import.meta.url));
/** What the bundled checkpoint is called, where no folder is. */
const BUNDLED_NAME = 'nano';
const INSTALLATION = 'http://127.0.0.1:8787';
/** Rows that the generating engine runs at once. */
const ROWS = 16;

type Named = Pick<EvalFlags, 'model' | 'baseUrl'>;

/** Where the model that the command line names is asked. */
export function modelPlace({ model, baseUrl }: Named): ModelPlace {
  if (baseUrl !== undefined) return 'endpoint';
  return model === undefined || model === BUNDLED_NAME || isFolder(model) ? 'folder' : 'installation';
}

/** The same of the judge, null where none is named. */
export function judgePlace({ judge, judgeBaseUrl, baseUrl }: EvalFlags): ModelPlace | null {
  if (judge === undefined) return null;
  const at = judgeBaseUrl ?? baseUrl;
  return modelPlace({ model: judge, ...(at === undefined ? {} : { baseUrl: at }) });
}

/**
 * The model that the command line names: a folder is loaded into this process; with `--base-url` it is a model of that endpoint; any other name is one of the
 * installation at MANTIS_BASE_URL.
 */
export async function evalModel(flags: EvalFlags): Promise<EvalModel> {
  const { model = BUNDLED_NAME, baseUrl, overlay } = flags;
  if (baseUrl !== undefined) {
    if (flags.model === undefined) throw new CliError('--base-url needs --model, the name of a model there', 2);
    return endpointModel(flags, { model, baseUrl, keyName: flags.apiKeyEnv });
  }
  if (isFolder(model)) return await folderModel(flags, model);
  if (model === BUNDLED_NAME) return await folderModel(flags, BUNDLED_MODEL);
  if (existsSync(model)) throw new CliError(`--model: expected a checkpoint folder, ${model} is a file`, 2);
  if (/^[./~]/.test(model)) throw new CliError(`--model: there is no folder ${model}`, 2);
  if (overlay !== undefined) throw new CliError('--overlay needs --model to be a checkpoint folder', 2);
  return await servedModel(flags, model);
}

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory();

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
  const request = readPrecision(flags);
  if (flags.overlay !== undefined && !isFolder(flags.overlay))
    throw new CliError(`--overlay: there is no folder ${flags.overlay}`, 2);
  try {
    const { storage, kv } = await choosePrecision(request, {
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
  } catch (error) {
    const overlay = flags.overlay === undefined ? '' : ` with --overlay ${flags.overlay}`;
    throw new CliError(
      `--model ${dir}${overlay}: ${error instanceof Error ? error.message : String(error)}; expected a checkpoint folder, as \`mantis import\` writes one`,
      2,
    );
  }
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
    throw new CliError(`--base-url: ${error instanceof Error ? error.message : String(error)}`, 2);
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
    ...(card.limits == null ? {} : { maxAnswerTokens: card.limits.max_new_tokens }),
    // A folder that was written anew is another model.
    facts: { created: card.created },
    ...requestSettings(flags),
  });
}

function requestSettings({ atOnce, timeout, request }: EvalFlags) {
  return {
    ...(atOnce === undefined ? {} : { atOnce }),
    timeoutMs: timeout * 1000,
    onRetry: tellRetry,
    ...(request === undefined ? {} : { request: readRequest(request) }),
  };
}

/** A person who waits is told for what, every now and then; many requests fail alike. */
const TELL_MS = 3_000;
let toldAtMs = Number.NEGATIVE_INFINITY;
function tellRetry({ why, attempts, most, pauseMs }: EndpointRetry): void {
  if (performance.now() - toldAtMs < TELL_MS) return;
  toldAtMs = performance.now();
  const line = `${why}; attempt ${attempts + 1} of ${most} in ${(pauseMs / 1000).toFixed(1)} s`;
  process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${line}\n` : `${line}\n`);
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
