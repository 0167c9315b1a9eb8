/** Two models asked the same held-out questions. The models are played, so that refusals, full engines and answers are what a test says. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { pino } from 'pino';
import type { ModelService } from '../../../gpu-backend/engine/service.ts';
import type { EdgeClient } from '../../../gpu-backend/server/edge-client.ts';
import { TaskFailure } from '../../../gpu-backend/server/task-runner.ts';
import { compareHandler } from '../../../gpu-backend/server/tasks/compare.ts';
import type { CompareTask, GenerateRequest } from '../../../shared/contract/backend.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import type { CompareResult } from '../../../shared/contract/taskResults.ts';

const TENANT = 'a'.repeat(32);
const dir = await mkdtemp(join(tmpdir(), 'mantis-compare-'));
after(() => rm(dir, { recursive: true, force: true }));

const turn = (role: string, content: unknown) => ({ role, content });
const line = (question: unknown, answer: string, more: object[] = []) =>
  JSON.stringify({ messages: [...more, turn('user', question), turn('assistant', answer)] });
const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==';

type Answer = (request: GenerateRequest, blobs: readonly Uint8Array[]) => string;

function play(answer: Answer) {
  const asked: { request: GenerateRequest; blobs: number }[] = [];
  const state = { open: 0, most: 0 };
  const service = {
    count: async () => ({ promptTokens: 5, imageTokens: [], optionTokens: [3] }),
    async *generate(request: GenerateRequest, blobs: readonly Uint8Array[]) {
      asked.push({ request, blobs: blobs.length });
      state.open++;
      state.most = Math.max(state.most, state.open);
      try {
        await new Promise((resolve) => setTimeout(resolve, 5));
        const text = answer(request, blobs);
        yield { type: 'delta', index: 0, text: text.slice(0, 2) };
        yield { type: 'delta', index: 0, text: text.slice(2) };
      } finally {
        state.open--;
      }
    },
  } as unknown as ModelService;
  return { asked, state, service };
}

/** What was brought to the edge, by its name. */
const staged = new Map<string, string>();
let tasks = 0;
async function compare(lines: readonly string[], service: ModelService, more: Partial<CompareTask> = {}) {
  const text = `${lines.join('\n')}\n`;
  const file = {
    id: 'file-held-out',
    bytes: Buffer.byteLength(text),
    sha256: createHash('sha256').update(text).digest('hex'),
  };
  const edge = {
    download: async (_path: string, to: string) => {
      await mkdir(dirname(to), { recursive: true });
      await writeFile(to, text);
    },
    putFile: async (path: string, from: string) => {
      assert.equal(path, '/internal/tasks/cmp_test/problems');
      staged.set(basename(from), await readFile(from, 'utf8'));
      return { key: 'blobs/x', bytes: 1, sha256: 'f'.repeat(64) };
    },
  } as unknown as EdgeClient;
  const spec: CompareTask = {
    kind: 'compare',
    baseModel: 'mantis-nano',
    current: 'mantis-nano',
    candidate: 'ft:new',
    heldOut: { files: [{ file_id: file.id, filename: 'held-out.jsonl', file }], balancing: false },
    maxExamples: null,
    confidence: 0.95,
    ...more,
  };
  const workDir = join(dir, String(tasks++));
  await mkdir(workDir, { recursive: true });
  const result = await compareHandler(service)(
    { id: 'cmp_test', tenant: TENANT, spec, leaseToken: 1 },
    {
      edge,
      workDir,
      threads: 1,
      log: pino({ level: 'silent' }),
      signal: new AbortController().signal,
      turn: new AbortController().signal,
      wasCancelled: async () => false,
      baseDirOf: () => dir,
      backendId: 'b',
    },
  );
  return result as CompareResult;
}

const LINES = Array.from({ length: 30 }, (_, i) => line(`question ${i}`, i % 2 === 0 ? 'Yes.' : `No ${i}`));
/** The base says yes to everything; the new one knows all but the first. */
const answers: Answer = ({ model, messages }) => {
  const part = messages.at(-1)?.parts[0];
  const i = Number(/\d+/.exec(part?.type === 'text' ? part.text : '')?.[0]);
  if (model === 'mantis-nano') return 'yes';
  return i === 0 ? 'no' : i % 2 === 0 ? '  YES!' : `no ${i}`;
};

test('counts, interval and test over all questions, each asked greedily and behind others', async () => {
  const { asked, state, service } = play(answers);
  const result = await compare(LINES, service);
  assert.deepEqual(
    { ...result, interval: null, pValue: null, files: null, detectableDifference: null },
    {
      examples: 30,
      groups: 30,
      detectableDifference: null,
      files: null,
      currentRight: 15,
      candidateRight: 29,
      onlyCurrent: 1,
      onlyCandidate: 15,
      difference: 14 / 30,
      interval: null,
      confidence: 0.95,
      pValue: null,
    },
  );
  assert.ok(result.interval[0] > 0.2 && result.interval[1] < 0.7, String(result.interval));
  assert.ok(result.pValue < 0.001);
  assert.ok((result.detectableDifference ?? 0) > 0.1 && (result.detectableDifference ?? 1) < 0.5, 'thirty see little');
  assert.deepEqual(
    result.files?.map(({ filename, mime }) => [filename, mime]),
    [
      ['cmp_test_answers.jsonl', 'application/jsonl'],
      ['cmp_test_report.html', 'text/html'],
    ],
  );
  const page = staged.get('cmp_test_report.html') ?? '';
  assert.match(page, /^<!doctype html>/i);
  assert.match(page, /Gate of ft:new/);
  const outcomes = (staged.get('cmp_test_answers.jsonl') ?? '')
    .trim()
    .split('\n')
    .map((one) => JSON.parse(one));
  assert.equal(outcomes.length, 30);
  assert.deepEqual(
    { ...outcomes[0], group: '' },
    {
      example: 'line 1',
      group: '',
      question: 'question 0',
      reference: 'Yes.',
      current: { answer: 'yes', right: true },
      candidate: { answer: 'no', right: false },
    },
    'what the new one got wrong comes first',
  );
  assert.equal(asked.length, 60);
  assert.deepEqual([...new Set(asked.slice(0, 30).map(({ request }) => request.model))], ['mantis-nano']);
  for (const { request } of asked) {
    assert.equal(request.priority, 'batch');
    assert.equal(request.tenant, TENANT);
    assert.equal(request.sampling.temperature, 0);
    assert.equal(request.sampling.maxTokens, 11, 'as long as the answer that counts, and a little more');
    assert.equal(request.messages.at(-1)?.role, 'user');
  }
  assert.ok(state.most > 1 && state.most <= 8, `${state.most} at once`);
});

test('pictures and earlier turns go along; the first so many are asked', async () => {
  const { asked, service } = play(() => 'two');
  const question = [
    { type: 'image_url', image_url: { url: PIXEL } },
    { type: 'text', text: 'and' },
    { type: 'image_url', image_url: { url: PIXEL } },
  ];
  const earlier = [turn('user', 'hello'), turn('assistant', 'hi')];
  const lines = [line(question, 'Two', earlier), ...LINES];
  const result = await compare(lines, service, { maxExamples: 1 });
  assert.deepEqual([result.examples, result.currentRight, result.candidateRight, result.difference], [1, 1, 1, 0]);
  assert.equal(asked.length, 2);
  assert.deepEqual(
    asked[0]?.request.messages.map(({ role, parts }) => [role, parts.map(({ type }) => type).join()]),
    [
      ['user', 'text'],
      ['assistant', 'text'],
      ['user', 'image,text,image'],
    ],
  );
  assert.equal(asked[0]?.blobs, 2);
});

test('a full engine is asked again', async () => {
  let refusals = 0;
  const { service } = play((request, blobs) => {
    if (refusals++ < 3) throw new ApiError('overloaded', 'full');
    return answers(request, blobs);
  });
  assert.equal((await compare(LINES.slice(0, 4), service)).candidateRight, 3);
});

test('what cannot be asked, or read, ends the comparison with its line', async () => {
  const refusing = play(({ model }) => {
    if (model === 'ft:new') throw new ApiError('context_length_exceeded', 'It has 9,000 tokens.');
    return 'yes';
  });
  const failure = (code: string, words: RegExp) => (error: unknown) => {
    assert.ok(error instanceof TaskFailure, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, words);
    return true;
  };
  await assert.rejects(
    compare(LINES, refusing.service),
    failure('context_length_exceeded', /line \d+, model ft:new: It has 9,000 tokens/),
  );
  const { service, asked } = play(answers);
  await assert.rejects(
    compare([...LINES, '{"messages": 3}', 'nonsense'], service),
    failure('invalid_training_file', /2 errors: line 31: .*line 32: /),
  );
  assert.equal(asked.length, 0, 'nothing is asked before the file is known to be right');
  await assert.rejects(compare([''], service), failure('invalid_training_file', /1 errors?: /));
});
