import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CompareResult, CompareTask, GenerateMessage, GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ModelService } from '../../engine/service.ts';
import { comparePairs, countPairs, normaliseAnswer } from '../../eval/statistics/paired.ts';
import type { DataExample } from '../../train/data/example.ts';
import { importData } from '../../train/data/import.ts';
import type { ExampleStore } from '../../train/data/store.ts';
import { type TaskContext, TaskFailure, type TaskHandler } from '../task-runner.ts';

/** Questions under way at once: enough to fill a batch, few beside what somebody waits for. */
const AT_ONCE = 8;
/** A full engine is asked again after this pause, doubled up to the most. */
const PAUSE_MS = 250;
const MAX_PAUSE_MS = 5_000;
const MAX_TRIES = 40;
/** Tokens beyond the reference's own within which an answer may still equal it: quotation marks, a full stop. */
const SLACK_TOKENS = 8;

/**
 * Asks two models the same held-out questions through this backend's own engine, behind everything that somebody waits for: greedily, one model after the
 * other, the last assistant turn of an example as the answer that counts. Nothing is kept: what breaks off is asked again.
 */
export function compareHandler(service: ModelService): TaskHandler<CompareTask> {
  return async ({ id, tenant, spec }, context) => {
    const store = await readHeldOut(id, spec, context);
    try {
      const count = Math.min(store.length, spec.maxExamples ?? store.length);
      if (count === 0) throw new TaskFailure('empty_file', 'The held-out file has no examples.', 'gate.held_out_file');
      const right: [boolean, boolean][] = Array.from({ length: count }, () => [false, false]);
      for (const [side, model] of [spec.current, spec.candidate].entries()) {
        await each(count, async (i) => {
          const example = await store.get(i);
          const answer = await ask(service, model, { id, tenant, example, store }, context.signal);
          (right[i] as [boolean, boolean])[side] = normaliseAnswer(answer) === normaliseAnswer(referenceOf(example));
        });
        context.log.info(
          { model, right: right.filter((pair) => pair[side]).length, examples: count },
          'model compared',
        );
      }
      const counts = countPairs(right);
      const { examples, difference, interval, pValue } = comparePairs(counts, spec.confidence);
      const result: CompareResult = {
        examples,
        currentRight: counts.both + counts.onlyFirst,
        candidateRight: counts.both + counts.onlySecond,
        onlyCurrent: counts.onlyFirst,
        onlyCandidate: counts.onlySecond,
        difference,
        interval: [...interval],
        confidence: spec.confidence,
        pValue,
      };
      return result;
    } finally {
      await store.close();
    }
  };
}

/** @throws TaskFailure for a file that is not right: a gate that leaves out what it cannot read would decide by something else than was asked for */
async function readHeldOut(
  taskId: string,
  spec: CompareTask,
  { edge, workDir, signal }: Pick<TaskContext, 'edge' | 'workDir' | 'signal'>,
): Promise<ExampleStore> {
  const paths: string[] = [];
  for (const { file } of spec.heldOut.files) {
    const path = join(workDir, 'files', file.sha256);
    const isThere = await stat(path).then(
      () => true,
      () => false,
    );
    if (!isThere) await edge.download(`/internal/files/${encodeURIComponent(file.id)}/content`, path, file);
    paths.push(path);
  }
  const wrong: string[] = [];
  let count = 0;
  const { store } = await importData(spec.heldOut, paths, join(workDir, 'held-out'), {
    signal,
    fetchImage: (reference) =>
      edge.getBytes(`/internal/tasks/${encodeURIComponent(taskId)}/images?reference=${encodeURIComponent(reference)}`),
    onProblem: ({ severity, line, message }) => {
      if (severity !== 'error') return;
      count++;
      const said = message.replace(/\.$/, '');
      if (wrong.length < 3) wrong.push(line === null ? said : `line ${line}: ${said}`);
    },
  });
  if (count === 0) return store;
  await store.close();
  throw new TaskFailure(
    'invalid_training_file',
    `The held-out file has ${count} ${count === 1 ? 'error' : 'errors'}: ${wrong.join('; ')}${count > wrong.length ? '; …' : '.'}`,
    'gate.held_out_file',
  );
}

type Question = { id: string; tenant: string; example: DataExample; store: ExampleStore };

/** The model's answer to an example's conversation without its last turn. */
async function ask(service: ModelService, model: string, question: Question, signal: AbortSignal): Promise<string> {
  const { example, store } = question;
  const messages: GenerateMessage[] = example.messages.slice(0, -1).map(({ role, parts }) => ({
    role,
    parts: parts.map((part) => (part.type === 'text' ? part : { type: 'image', blob: part.image })),
  }));
  const blobs = await Promise.all(example.images.map((reference) => store.readImage(reference)));
  const request: GenerateRequest = {
    requestId: `${question.id}-${example.file}-${example.line}`,
    ...(/^[0-9a-f]{32}$/.test(question.tenant) ? { tenant: question.tenant } : {}),
    model,
    messages,
    sampling: { maxTokens: null, temperature: 0, topP: 1, stop: [] },
    priority: 'batch',
    deadlineMs: LIMITS.request.deadlineMs,
  };
  for (let attempt = 1; ; attempt++) {
    signal.throwIfAborted();
    try {
      const { optionTokens } = await service.count({ ...request, options: [referenceOf(example)] }, blobs);
      const maxTokens = (optionTokens?.[0] ?? 0) + SLACK_TOKENS;
      return await wholeAnswer(service, { ...request, sampling: { ...request.sampling, maxTokens } }, blobs, signal);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const passes = error.status >= 500 || error.status === 429;
      if (!passes) throw new TaskFailure(error.code, `Held-out line ${example.line}, model ${model}: ${error.message}`);
      if (attempt === MAX_TRIES) throw error;
      await sleep(Math.min(PAUSE_MS * 2 ** (attempt - 1), MAX_PAUSE_MS));
    }
  }
}

async function wholeAnswer(
  service: ModelService,
  request: GenerateRequest,
  blobs: readonly Uint8Array[],
  signal: AbortSignal,
): Promise<string> {
  let text = '';
  for await (const event of service.generate(request, blobs, signal)) {
    if (event.type === 'delta') text += event.text;
    else if (event.type === 'error')
      throw new ApiError('backend_failed', event.error.message, { status: event.error.status });
  }
  return text;
}

function referenceOf(example: DataExample): string {
  const last = example.messages.at(-1);
  if (last?.role !== 'assistant')
    throw new TaskFailure(
      'invalid_training_file',
      `Held-out line ${example.line}: expected an assistant turn at its end, the answer that counts.`,
      'gate.held_out_file',
    );
  return last.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
}

/** Runs `work` for 0 … count − 1, so many at once; the first failure ends it. */
async function each(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  let hasFailed = false;
  const worker = async () => {
    while (next < count && !hasFailed) {
      try {
        await work(next++);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker));
}
