/** `mantis eval` against a mock endpoint, in this process: what it takes, what it asks, and what it refuses before it asks. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { type Command, CommanderError } from 'commander';
import { CliError } from '../../../gpu-backend/cli/error.ts';
import { evalCommand } from '../../../gpu-backend/cli/eval.ts';
import { evalsCommand } from '../../../gpu-backend/cli/evals.ts';
import { nearestName } from '../../../gpu-backend/cli/near.ts';

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

/** Rows of the Mantis form: of 12, the first eight of one kind. */
const rows = (change: (i: number) => object = () => ({})) =>
  JSON.stringify(
    Array.from({ length: 12 }, (_, i) => ({
      id: `q${i}`,
      question_type: 'multi-choice',
      question: `Which is larger, ${i}?`,
      images: [`data:image/png;base64,${PNG}`, `data:image/png;base64,${PNG}`],
      options: i % 2 === 0 ? ['left', 'right'] : ['True', 'False'],
      answer: 'A',
      category: i < 8 ? 'size' : 'colour',
      ...change(i),
    })),
  );

interface Outcome {
  readonly out: string;
  readonly err: string;
  readonly code: number;
  readonly message: string;
}

const mantisEval = (...args: readonly string[]): Promise<Outcome> => run(evalCommand(), args);

/** One command line, with what it prints. */
async function run(command: Command, args: readonly string[]): Promise<Outcome> {
  const written: string[] = [];
  const told: string[] = [];
  const [stdout, stderr] = [process.stdout.write, process.stderr.write];
  // The test runner's own lines, which are bytes, go their way.
  process.stdout.write = ((text: string | Uint8Array) =>
    typeof text === 'string'
      ? written.push(text) > 0
      : stdout.call(process.stdout, text)) as typeof process.stdout.write;
  process.stderr.write = ((text: string) => told.push(text) > 0) as typeof process.stderr.write;
  command.exitOverride().enablePositionalOptions();
  for (const below of command.commands) below.exitOverride();
  let outcome = { code: 0, message: '' };
  try {
    await command.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (error instanceof CliError) outcome = { code: error.exitCode, message: error.message };
    else if (error instanceof CommanderError) outcome = { code: 2, message: error.message };
    else throw error;
  } finally {
    process.stdout.write = stdout;
    process.stderr.write = stderr;
  }
  return { out: written.join(''), err: told.join(''), ...outcome };
}

describe('mantis eval', () => {
  let dir: string;
  let questions: string[];
  let bounds: (number | undefined)[];
  let endpoint: string[];
  const at = (...path: string[]) => join(dir, ...path);
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    response.setHeader('content-type', 'application/json');
    if (request.url === '/v1/models/served') {
      response.end(JSON.stringify({ id: 'served', created: 1, limits: { max_new_tokens: 64 } }));
      return;
    }
    const { messages, model, max_tokens } = JSON.parse(Buffer.concat(pieces).toString('utf8')) as {
      messages: { content: { type: string; text?: string }[] }[];
      model: string;
      max_tokens?: number;
    };
    bounds.push(max_tokens);
    questions.push(messages[0]?.content.find(({ type }) => type === 'text')?.text ?? '');
    response.end(JSON.stringify({ choices: [{ message: { content: model }, finish_reason: 'stop' }] }));
  });
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-eval-cli-'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    endpoint = ['--base-url', `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, '--model', 'A'];
    for (const name of ['data/mantis-eval', 'data/nlvr2']) await mkdir(at(name), { recursive: true });
    await writeFile(at('data/mantis-eval/test.json'), rows());
    await writeFile(
      at('data/nlvr2/test.json'),
      rows(() => ({ options: ['(A) True', '(B) False'] })),
    );
  });
  after(async () => {
    server.closeAllConnections();
    server.close();
    await rm(dir, { recursive: true });
  });
  beforeEach(() => {
    questions = [];
    bounds = [];
  });
  const me = () => ['mantis-eval', '--data', at('data/mantis-eval'), ...endpoint];

  it('asks a sample of every kind, says that it is one, and prints the report where it can be piped', async () => {
    const { out, code } = await mantisEval(...me(), '--limit', '3', '--out', at('three'));
    assert.equal(code, 0);
    assert.equal(questions.length, 3);
    const numbers = questions.map((question) => Number(/\d+/.exec(question)?.[0]));
    assert.equal(numbers.filter((i) => i < 8).length, 2);
    assert.match(out, /Mantis-Eval.*100\.0 %.*3 of 12/s);
    questions = [];
    const first = await mantisEval(...me(), '--first', '3', '--json');
    assert.deepEqual(questions.map((question) => Number(/\d+/.exec(question)?.[0])).sort(), [0, 1, 2]);
    assert.equal((JSON.parse(first.out) as { examples: number }).examples, 3);
  });

  it('asks several tasks, each with a folder of its own, and lays runs side by side', async () => {
    const both = ['mantis-eval,nlvr2', '--data', at('data'), '--limit', '4'];
    const { out, code } = await mantisEval(...both, ...endpoint, '--out', at('both'), '--name', 'one');
    assert.equal(code, 0);
    assert.deepEqual((await readdir(at('both'))).sort(), ['mantis-eval', 'nlvr2']);
    assert.match(out, /^model +mantis-eval +nlvr2$/m);
    await mantisEval(...both, ...endpoint, '--model', 'B', '--out', at('other'), '--json');
    const runs = ['both/mantis-eval', 'both/nlvr2', 'other/mantis-eval'].map((path) => at(path));
    const table = (await mantisEval('show', ...runs, '--format', 'markdown')).out.split('\n');
    assert.match(table[0] ?? '', /^\| model \| mantis-eval \| nlvr2 \|$/);
    assert.match(table[2] ?? '', /^\| one \| 100\.0 \(\d+\.\d … 100\.0\) \| 100\.0 /);
    assert.match(table[3] ?? '', /^\| B @ 127\.0\.0\.1:\d+ \| 0\.0 \(0\.0 … [\d.]+\) \| {2}\|$/);
    const all = await mantisEval('show', at('both'), at('other'), at('data'), '--format', 'markdown');
    assert.equal(all.out.split('\n')[2], table[2]);
    assert.match(all.err, /data: no report yet, left out/);
    const csv = (await mantisEval('show', ...runs, '--format', 'csv')).out.trim().split('\n');
    assert.equal(csv.length, 4);
    assert.match(csv[1] ?? '', /^one,mantis-eval,4,1,/);
  });

  it('asks a model of an installation for no longer answers than it writes', async () => {
    const environment = { ...process.env };
    try {
      process.env.MANTIS_BASE_URL = endpoint[1]?.replace('/v1', '');
      process.env.MANTIS_API_KEY = 'k';
      const served = ['mantis-eval', '--data', at('data/mantis-eval'), '--limit', '2', '--model', 'served', '--json'];
      assert.equal((await mantisEval(...served)).code, 0);
      assert.equal((await mantisEval(...served, '--max-tokens', '8')).code, 0);
      assert.deepEqual(bounds, [undefined, undefined, 8, 8]);
    } finally {
      process.env = environment;
    }
  });

  it('tries a run out without asking, and finds pictures that cannot be decoded', async () => {
    const { out, code } = await mantisEval(...me(), '--dry-run');
    assert.equal(code, 0);
    assert.match(out, /questions +12\n +pictures +24 sent, 1 different/);
    assert.match(out, /\[picture 1\]\n *\[picture 2\]\n *Which is larger, 0\?/);
    const damaged = Buffer.from(PNG, 'base64');
    damaged.fill(0, 45, 50);
    await mkdir(at('damaged'));
    const broken = { images: [`data:image/png;base64,${damaged.toString('base64')}`] };
    await writeFile(
      at('damaged/test.json'),
      rows((i) => (i === 5 ? broken : {})),
    );
    const found = await mantisEval('mantis-eval', '--data', at('damaged'), '--dry-run');
    assert.equal(found.code, 2);
    assert.match(found.message, /1 of 2 pictures cannot be decoded:\nq5, picture 1: /);
    assert.equal(questions.length, 0);
  });

  it('refuses before the first question what it could not do after it', async () => {
    await mkdir(at('answerless'));
    await writeFile(
      at('answerless/test.json'),
      rows(() => ({ answer: null })),
    );
    await writeFile(at('file'), '');
    await mantisEval(...me(), '--limit', '3', '--out', at('three'), '--json');
    questions = [];
    const cases: readonly (readonly [readonly string[], RegExp])[] = [
      [[...me(), '--limit', '0'], /Expected a whole number from 1/],
      [[...me(), '--orders', '0'], /Expected all, protocol or a number/],
      [[...me(), '--limit', '3', '--first', '3'], /name one of them/],
      [[...me(), '--compare', at('nowhere')], /--compare: .*nowhere: expected the folder/],
      [[...me(), '--compare', at('three')], /--compare: .*12 questions.*--force/],
      [[...me(), '--html', dir], /--html: .*expected a file, it is a folder/],
      [[...me(), '--out', at('file')], /--out: .*expected a folder, it is a file/],
      [[...me(), '--out', at('data/mantis-eval')], /is the folder of the data/],
      [[...me(), '--out', '/proc/no/folder'], /--out: .*(cannot be made|expected a folder)/],
      [[...me(), '--cache', at('file', 'x')], /--cache: .*file is a file/],
      [[...me(), '--per-skill', '3'], /--per-skill does nothing here/],
      [[...me(), '--seed', '4'], /--seed does nothing here/],
      [[...me(), '--overlay', dir], /--overlay does nothing here/],
      [[...me(), '--judge', 'A'], /--judge does nothing here/],
      [[...me(), '--force'], /--force does nothing here/],
      [[...me(), '--answer-by', 'likelihood'], /only writes answers/],
      [['textvqa', '--data', dir, ...endpoint, '--rotate'], /--rotate does nothing here/],
      [['skills', '--data', dir], /--data does nothing here/],
      [['skills', '--choices', 'a,b'], /--choices does nothing here/],
      [['own', '--data', at('file'), '--choices', 'a'], /Expected at least two different answers/],
      [['own', '--data', at('file'), '--split', 'dev'], /--split does nothing here/],
      [['own', '--data', at('file'), '--choices', 'a,b', '--rotate'], /--rotate does nothing here/],
      [['own', '--data', at('file'), '--answer-by', 'likelihood'], /--answer-by does nothing here/],
      [['own', '--data', at('data')], /cannot read .*data: no such file/],
      [['own'], /name them with --data/],
      [['mantis-eval', '--data', dir, '--timeout', '3'], /--timeout does nothing here/],
      [[...me(), '--one-shot', at('file')], /--one-shot: expected a JPEG/],
      [[...me(), '--submission', at('x.json')], /has no server/],
      [['mantis-eval', '--data', at('answerless'), ...endpoint], /nothing would be scored/],
      [['nlvr2', '--data', at('data/mantis-eval'), ...endpoint], /expected True and False/],
      [['mantis_eval', ...endpoint], /did you mean mantis-eval/],
      [['show', at('three'), '--limit', '3'], /unknown option '--limit'/],
      [['list', '--out', 'x'], /unknown option '--out'/],
    ];
    for (const [args, said] of cases) {
      const { code, message } = await mantisEval(...args);
      assert.match(message, said, args.join(' '));
      assert.equal(code, 2, args.join(' '));
    }
    assert.equal(questions.length, 0);
  });
});

it('lists of evaluations go on from page to page, and say where they end before all', async () => {
  const asked: string[] = [];
  const api = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '', 'http://api');
    asked.push(`${pathname}?${searchParams}`);
    const from = Number(searchParams.get('after')?.slice(1) ?? -1) + 1;
    const ids = Array.from({ length: Math.min(Number(searchParams.get('limit')), 250 - from) }, (_, i) => from + i);
    const data = ids.map((i) => ({
      id: `e${i}`,
      name: `n${i}`,
      created_at: 0,
      data_source_config: { type: 'mantis.benchmark', benchmark: 'nlvr' },
      testing_criteria: [],
    }));
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ object: 'list', data, has_more: from + ids.length < 250 }));
  });
  await new Promise<void>((resolve) => api.listen(0, '127.0.0.1', resolve));
  try {
    const url = `http://127.0.0.1:${(api.address() as AddressInfo).port}`;
    const list = (...args: string[]) => run(evalsCommand(), ['list', '--url', url, '--api-key', 'k', ...args]);
    const whole = await list('--limit', '1000');
    assert.equal(whole.out.trim().split('\n').length, 251);
    assert.equal(asked.length, 3);
    assert.equal(whole.err, '');
    const first = await list('--limit', '120');
    assert.equal(first.out.trim().split('\n').length, 121);
    assert.match(first.err, /there are more evaluations than these 120: --limit/);
    assert.deepEqual(asked.slice(3), ['/v1/evals?limit=100&order=desc', '/v1/evals?limit=20&after=e99&order=desc']);
    assert.match((await list('--limit', '0')).message, /Expected a whole number from 1/);
  } finally {
    api.close();
  }
});

it('a misspelt name finds the one that was meant, and nothing where none is near', () => {
  const names = ['nlvr', 'nlvr2', 'mantis-eval', 'blink'];
  assert.deepEqual(
    ['mantis_eval', 'Blinc', 'nlvr3', 'imagenet'].map((word) => nearestName(word, names)),
    ['mantis-eval', 'blink', 'nlvr', null],
  );
});
