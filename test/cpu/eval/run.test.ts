import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { appendFile, cp, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { AnswerCache, answerKey } from '../../../gpu-backend/eval/run/answer-cache.ts';
import { ModelUnusable } from '../../../gpu-backend/eval/run/model-unusable.ts';
import { runEval, TooManyErrors } from '../../../gpu-backend/eval/run/run.ts';
import { RunFolderError } from '../../../gpu-backend/eval/run/run-folder.ts';
import type { EvalAnswer, EvalModel } from '../../../gpu-backend/eval/task.ts';
import { bundled } from '../../fixtures/bundled.ts';
import { records, task } from './run-task.ts';

const HERE = dirname(fileURLToPath(import.meta.url));
/** 40 records in both orders, without pictures, with a stranger's. */
const ITEMS = 160;
const KILLS = 20;
const KILLS_A_RUN = 4;

interface Start {
  readonly signal: string | null;
  readonly counts: { readonly done: number; readonly resumed: number; readonly fromCache: number } | null;
}

let dir: string;
let script: string;
let expected: string;

function start(out: string, cache = '', killAfter = 0): Promise<Start> {
  return new Promise((resolve, reject) => {
    execFile(
      process.execPath,
      [script, out, cache, String(killAfter)],
      { timeout: 60_000 },
      (error, stdout, stderr) => {
        const signal = (error as (Error & { signal?: string }) | null)?.signal ?? null;
        if (error !== null && signal === null) reject(new Error(stderr));
        else resolve({ signal, counts: signal === null ? JSON.parse(stdout) : null });
      },
    );
  });
}

const reportOf = (out: string): Promise<string> => readFile(join(out, 'report.json'), 'utf8');

function scripted(answer: EvalModel['answer'], identity = 'scripted'): EvalModel {
  return { name: identity, identity, comparesChoices: true, atOnce: 4, answer, close: async () => {} };
}
const left: EvalAnswer = { text: 'left', finishReason: 'choice', logprobs: [-0.1, -2] };

describe('a run', () => {
  before(async () => {
    // Below the project, where the bundle finds its external packages.
    const cache = join(HERE, '../../../node_modules/.cache');
    await mkdir(cache, { recursive: true });
    dir = await mkdtemp(join(cache, 'eval-run-'));
    script = await bundled(join(HERE, 'run-worker.ts'), dir);
    const { counts } = await start(join(dir, 'whole'));
    assert.equal(counts?.done, ITEMS);
    expected = await reportOf(join(dir, 'whole'));
  });
  after(() => rm(dir, { recursive: true, force: true }));

  it(`killed at ${KILLS} random points ends with the same bytes`, async () => {
    const killed = async (run: number): Promise<number> => {
      const out = join(dir, `killed-${run}`);
      for (let kills = 0; kills < KILLS_A_RUN; ) {
        // Somewhere in what may be left: a run that was not killed is thrown away.
        const { signal } = await start(out, '', 1 + Math.floor(Math.random() * (ITEMS / 2)));
        if (signal === 'SIGKILL') kills++;
        else await rm(out, { recursive: true });
      }
      const { counts } = await start(out);
      assert.equal(await reportOf(out), expected);
      return counts?.resumed ?? 0;
    };
    const resumed = await Promise.all(Array.from({ length: KILLS / KILLS_A_RUN }, (_, run) => killed(run)));
    assert.ok(
      resumed.some((answers) => answers > 0),
      'no answer outlived a kill',
    );
  });

  it('with a torn last line asks that question again', async () => {
    const whole = join(dir, 'whole');
    const lines = (await readFile(join(whole, 'items.jsonl'), 'utf8')).length;
    const out = join(dir, 'torn');
    await cp(whole, out, { recursive: true });
    await truncate(join(out, 'items.jsonl'), lines - 37);
    const result = await start(out);
    assert.deepEqual([result.counts?.resumed, result.counts?.done], [ITEMS - 1, ITEMS]);
    assert.equal(await reportOf(out), expected);
    assert.equal((await readFile(join(out, 'items.jsonl'), 'utf8')).trimEnd().split('\n').length, ITEMS);
  });

  it('does not go on with what another run has begun, and says where they differ', async () => {
    const out = join(dir, 'whole');
    const other = runEval({ task, records, model: scripted(async () => left), out });
    await assert.rejects(other, (error: unknown) => {
      assert.ok(error instanceof RunFolderError);
      assert.match(error.message, /variants\.controls: there \["text-only","shuffled"\], here \[\]/);
      assert.match(error.message, /model: there digest \(digest 1\), here scripted \(scripted\)/);
      return true;
    });
    await writeFile(join(dir, 'whole', 'lock'), JSON.stringify({ pid: 1, startedAt: null }));
    await assert.rejects(runEval({ task, records, model: scripted(async () => left), out }), /process 1 is writing/);
    await rm(join(dir, 'whole', 'lock'));
  });

  it('by two processes at once shares one cache, and asks nothing twice afterwards', async () => {
    const cache = join(dir, 'cache');
    const [a, b] = await Promise.all([start(join(dir, 'a'), cache), start(join(dir, 'b'), cache)]);
    assert.equal(a.counts?.done, ITEMS);
    assert.equal(b.counts?.done, ITEMS);
    // Somebody was killed in the middle of a line.
    await appendFile(join(cache, 'answers.jsonl'), '{"key":"ab","answer":{"te');
    const c = await start(join(dir, 'c'), cache);
    assert.equal(c.counts?.fromCache, ITEMS);
    for (const out of ['a', 'b', 'c']) assert.equal(await reportOf(join(dir, out)), expected);
  });
});

describe('a question without an answer', () => {
  const failing = (share: number) => {
    let asked = 0;
    return scripted(async () => {
      if (asked++ % Math.round(1 / share) === 0) throw new Error('the model is tired');
      return left;
    });
  };

  it('is counted and scores nothing, and is asked again by the next start', async () => {
    const out = await mkdtemp(join(tmpdir(), 'mantis-eval-'));
    const cache = await AnswerCache.open(join(out, 'cache'));
    try {
      const options = { task, records, out, cache, maxErrorShare: 0.3 };
      const first = await runEval({ ...options, model: failing(0.25) });
      assert.equal(first.counts.errors, 10);
      assert.equal(first.items.filter(({ error }) => error === 'the model is tired').length, 10);
      assert.equal(cache.size, 30);
      const second = await runEval({ ...options, model: scripted(async () => left) });
      assert.deepEqual(
        [second.counts.resumed, second.counts.errors, second.items.filter(({ error }) => error !== undefined).length],
        [30, 0, 0],
      );
      const whole = await runEval({ task, records, model: scripted(async () => left) });
      assert.deepEqual(second.items, whole.items);
    } finally {
      await cache.close();
      await rm(out, { recursive: true });
    }
  });

  it('ends the run where there are too many, or where none can be answered', async () => {
    await assert.rejects(runEval({ task, records, model: failing(0.25) }), (error: unknown) => {
      assert.ok(error instanceof TooManyErrors);
      assert.match(error.message, /of 40 questions stayed without an answer.*the model is tired/);
      return true;
    });
    // One content filter is no fault of twelve questions; nothing is let pass where that is asked for.
    const options = { task, records, limit: 12 };
    assert.equal((await runEval({ ...options, model: failing(1 / 12) })).counts.errors, 1);
    await assert.rejects(runEval({ ...options, maxErrorShare: 0, model: failing(1 / 12) }), TooManyErrors);
    await assert.rejects(runEval({ ...options, limit: 2, model: failing(1) }), /2 of 2 .*--max-errors/);
    let asked = 0;
    const unusable = scripted(async () => {
      asked++;
      throw new ModelUnusable('401: no such key');
    });
    await assert.rejects(runEval({ task, records, model: unusable }), /no such key/);
    assert.ok(asked <= 4);
  });

  it('is never asked where a wish cannot be done for all records', async () => {
    let asked = 0;
    const model = scripted(async () => {
      asked++;
      return left;
    });
    const one = { ...records, get: async (index: number) => ({ ...(await records.get(index)), group: 'one' }) };
    const shuffled = { orders: 'protocol', rotate: false, controls: ['shuffled'] } as const;
    await assert.rejects(runEval({ task, records: one, model, asked: shuffled }), /control `shuffled`/);
    await assert.rejects(runEval({ task, records, model: { ...model, comparesChoices: false } }), /by likelihood/);
    assert.equal(asked, 0);
  });

  it('is not waited for when the run is stopped', async () => {
    const stop = new AbortController();
    const model = scripted(
      (_, signal) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
        ),
    );
    const run = runEval({ task, records, model, signal: stop.signal });
    setTimeout(() => stop.abort(new Error('enough')), 20);
    await assert.rejects(run, /enough/);
  });
});

describe('the key of an answer', () => {
  const model = { identity: 'm', comparesChoices: false };
  const image = (sha256: string) => ({ sha256, bytes: async () => new Uint8Array() });
  const prompt = { parts: [{ image: 0 }, 'what?'], images: [image('aa')], maxTokens: 8 };

  it('changes with everything that an answer depends on, and with nothing else', () => {
    const keys = [
      answerKey(model, prompt),
      answerKey({ ...model, identity: 'n' }, prompt),
      answerKey(model, { ...prompt, images: [image('bb')] }),
      answerKey(model, { ...prompt, parts: ['what?', { image: 0 }] }),
      answerKey(model, { ...prompt, maxTokens: 9 }),
      answerKey(model, { ...prompt, system: '' }),
      answerKey({ ...model, comparesChoices: true }, { ...prompt, choices: ['A', 'B'] }),
      answerKey({ ...model, comparesChoices: true }, { ...prompt, choices: ['A', 'C'] }),
    ];
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(answerKey(model, { ...prompt, choices: ['A'] }), keys[0]);
    assert.equal(
      answerKey(model, { ...prompt, parts: [{ image: 1 }, 'what?'], images: [image('cc'), image('aa')] }),
      keys[0],
    );
  });
});
