/** From a run as it was asked for to the task of a backend: models and files looked up, lines stored. */
import { ApiError, errorMessage, violation } from '../../shared/contract/errors.ts';
import type {
  CreateEvalRunRequest,
  EvalDataSource,
  EvalLine,
  EvalSampling,
  Grader,
} from '../../shared/contract/evals.ts';
import type { EvaluateTask } from '../../shared/contract/evalTask.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { nowMs } from '../clock.ts';
import type { Env } from '../env.ts';
import { Stage } from '../files/stage.ts';
import { resolveModel } from '../fleet/models.ts';
import { servedModels } from '../fleet/pick.ts';
import { knownModels, liveBackends } from '../fleet/registry.ts';
import type { EvalRow, EvalSource } from '../store/evals.ts';
import { filePrefix } from '../store/files.ts';
import { checkBenchmark, checkContent, checkPrompt, checkReferences, judgesOf, lineBytes } from './check.ts';
import { benchmarkFiles, linesFile, stored } from './files.ts';

const E = LIMITS.evals;

/** `content`: the lines as an object that is still loose. */
export type PreparedRun = {
  spec: EvaluateTask;
  fileIds: string[];
  content: { key: string } | null;
  total: number;
};

/** @throws ApiError for whatever is wrong with the request, all of it at once where it can be told at once */
export async function prepareRun(
  env: Env,
  tenant: string,
  row: EvalRow,
  runId: string,
  asked: Pick<CreateEvalRunRequest, 'name' | 'metadata'> & { data_source: EvalDataSource },
): Promise<PreparedRun> {
  const source = JSON.parse(row.source) as EvalSource;
  const criteria = JSON.parse(row.criteria) as Grader[];
  const { data_source: data } = asked;
  const kinds = source.type === 'custom' ? ['jsonl', 'completions', 'responses'] : ['mantis.benchmark'];
  if (!kinds.includes(data.type))
    throw ApiError.from([
      violation('invalid_value', 'data_source.type', {
        expected: `${kinds.map((kind) => JSON.stringify(kind)).join(' or ')}, since the evaluation's data source is ${JSON.stringify(source.type)}`,
        received: JSON.stringify(data.type),
      }),
    ]);
  const model = data.type === 'jsonl' ? null : data.model;
  const { models, bases, contexts } = await resolveAll(env, tenant, [
    ...(model === null ? [] : [{ model, param: 'data_source.model' }]),
    ...judgesOf(criteria),
  ]);
  const base = {
    kind: 'evaluate' as const,
    baseModel: bases[0] as string,
    bases,
    evalId: row.id,
    evalName: row.name,
    runName: asked.name ?? '',
    createdAt: Math.floor(nowMs() / 1000),
    metadata: asked.metadata ?? {},
    model,
    criteria,
    models,
  };
  if (data.type === 'mantis.benchmark') {
    if (source.type !== 'mantis.benchmark') throw new Error('prepareRun: expected a benchmark');
    const wrong = checkBenchmark(source.benchmark, data);
    if (wrong.length > 0) throw ApiError.from(wrong);
    const files = await benchmarkFiles(env, tenant, data.file_ids ?? []);
    return {
      spec: { ...base, source: { type: 'benchmark', benchmark: source.benchmark, files, options: data } },
      fileIds: files.map(({ id }) => id),
      content: null,
      total: 0,
    };
  }
  if (source.type !== 'custom') throw new Error('prepareRun: expected items of the client');
  const prompt = data.type === 'jsonl' ? null : data.input_messages;
  const schema = source.item_schema;
  const hasSample = data.type === 'jsonl';
  const needsSample = hasSample && source.include_sample_schema === true;
  const content = data.source.type === 'file_content' ? data.source.content : null;
  const wrong = [
    ...(prompt === null ? [] : checkPrompt(prompt)),
    ...(content === null ? [] : checkContent(content, schema, needsSample)),
  ];
  // Where the templates of the prompt are none, nothing can be said about what they look up.
  if (wrong.length === 0) wrong.push(...checkReferences(criteria, prompt, content, hasSample));
  const sampling = data.type === 'jsonl' ? {} : samplingOf(data);
  const context = model === null ? null : (contexts[model] ?? null);
  const most = sampling.max_completion_tokens ?? sampling.max_completions_tokens ?? 0;
  if (context !== null && most >= context)
    wrong.push(
      violation('context_length_exceeded', 'data_source.sampling_params.max_completion_tokens', {
        expected: `less than the ${context} tokens that ${model} reads and writes in all`,
        received: most,
      }),
    );
  if (wrong.length > 0) throw ApiError.from(wrong);
  const lines = { schema, hasSample, needsSample };
  if (data.source.type === 'file_id') {
    const file = await linesFile(env, tenant, data.source.id);
    return {
      spec: { ...base, source: { type: 'lines', lines: { ...lines, file: stored(file) }, prompt, sampling } },
      fileIds: [file.id],
      content: null,
      total: 0,
    };
  }
  const staged = await stageLines(env, tenant, data.source.content);
  return {
    spec: {
      ...base,
      source: {
        type: 'lines',
        lines: { ...lines, file: { id: runId, bytes: staged.bytes, sha256: staged.sha256 } },
        prompt,
        sampling,
      },
    },
    fileIds: [],
    content: { key: staged.key },
    total: data.source.content.length,
  };
}

/** In the words of chat, whichever were used. */
function samplingOf(data: Extract<EvalDataSource, { type: 'completions' | 'responses' }>): EvalSampling {
  if (data.type === 'completions') return data.sampling_params ?? {};
  const { text, ...rest } = data.sampling_params ?? {};
  const format = text?.format;
  if (format === undefined) return rest;
  if (format.type !== 'json_schema') return { ...rest, response_format: format };
  const { type, ...json_schema } = format;
  return { ...rest, response_format: { type, json_schema } };
}

/** One backend asks them all: it must serve the bases of every one. */
async function resolveAll(
  env: Env,
  tenant: string,
  named: readonly { model: string; param: string }[],
): Promise<{ models: Record<string, string>; bases: string[]; contexts: Record<string, number> }> {
  const models: Record<string, string> = {};
  const contexts: Record<string, number> = {};
  const bases = new Set<string>();
  for (const { model, param } of named) {
    try {
      const known = await resolveModel(env, tenant, model);
      models[model] = known.id;
      contexts[model] = known.card.contextTokens;
      bases.add(known.adapter?.base ?? known.id);
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 'model_not_found') throw error;
      throw new ApiError('model_not_found', error.message.replace(/^model/, param), { param });
    }
  }
  if (bases.size === 0) {
    const [any] = (await knownModels(env, true)).keys();
    if (any === undefined)
      throw new ApiError('no_backend', 'No backend is there right now. Try again shortly.', { retryAfterMs: 2_000 });
    bases.add(any);
  }
  const all = [...bases];
  if (all.length > 1) {
    const isServed = (await liveBackends(env)).some((backend) => {
      const served = servedModels([backend]);
      return all.every((base) => served.has(base));
    });
    if (!isServed)
      throw new ApiError(
        'invalid_value',
        errorMessage('testing_criteria', {
          expected: 'judges that one backend serves beside the model',
          received: all.join(', '),
          remedy:
            'Serve them together (mantis serve --model … --model …), or judge answers of an earlier run with "jsonl".',
        }),
        { param: 'testing_criteria' },
      );
  }
  return { models, bases: all, contexts };
}

async function stageLines(env: Env, tenant: string, lines: readonly EvalLine[]) {
  const tooLarge = lines.findIndex((line) => lineBytes(line) > E.maxItemBytes);
  if (tooLarge >= 0)
    throw ApiError.from([
      violation('request_too_large', `data_source.source.content[${tooLarge}]`, {
        expected: `at most ${E.maxItemBytes} bytes as JSON, pictures in data URLs not counted`,
        received: lineBytes(lines[tooLarge]),
      }),
    ]);
  const stage = new Stage(
    { db: env.DB, blobs: env.BLOBS },
    { prefix: filePrefix(tenant), maxBytes: E.maxFileBytes, param: 'data_source' },
  );
  try {
    await stage.write(new TextEncoder().encode(lines.map((line) => `${JSON.stringify(line)}\n`).join('')));
    return await stage.finish();
  } catch (error) {
    await stage.discard();
    throw error;
  }
}
