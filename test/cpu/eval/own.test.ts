/** A user's own conversations as an evaluation: read as fine-tuning reads them, asked turn by turn, of the bundled model. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openOwn } from '../../../gpu-backend/cli/eval-own.ts';
import { EngineEvalModel } from '../../../gpu-backend/engine/eval-model.ts';
import { applyVariant } from '../../../gpu-backend/eval/controls.ts';
import { wrapTask } from '../../../gpu-backend/eval/options.ts';
import { answerKey } from '../../../gpu-backend/eval/run/answer-cache.ts';
import { formPrompt } from '../../../gpu-backend/eval/run/prompt-form.ts';
import { evalSpec, runEval } from '../../../gpu-backend/eval/run/run.ts';
import { type EvalPrompt, specHash } from '../../../gpu-backend/eval/task.ts';
import { ownTask } from '../../../gpu-backend/eval/tasks/own.ts';
import { skillFiles } from '../../../gpu-backend/train/nano/skill-files.ts';

const NANO = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const CHOICES = ['true', 'false'];

interface Question {
  readonly files: readonly string[];
  readonly bytes: readonly Uint8Array[];
  readonly text: string;
  readonly answer: string;
}

describe('own conversations', () => {
  let dir: string;
  let questions: Question[];
  const at = (...path: string[]) => join(dir, ...path);
  const open = (path: string, choices: readonly string[] = CHOICES, limit?: number) =>
    openOwn({ paths: [at(path)], ...(limit === undefined ? {} : { limit }) }, choices);
  const task = (choices: readonly string[] = CHOICES) =>
    ownTask({ choices, open: ({ paths }) => openOwn({ paths }, choices) });
  const lines = (records: readonly object[]) => records.map((record) => `${JSON.stringify(record)}\n`).join('');
  const url = (bytes: Uint8Array) => `data:image/png;base64,${Buffer.from(bytes).toString('base64')}`;
  const shown = ({ bytes }: Question) =>
    bytes.map((one) => ({ type: 'image_url', image_url: { url: url(one) } }) as const);

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'mantis-own-'));
    await mkdir(at('pictures'));
    const { items } = await skillFiles({ perSkill: 12, seed: 3, images: 2 });
    questions = await Promise.all(
      items
        .filter(({ choices }) => choices.join() === CHOICES.join())
        .map(async ({ images, question, answer }) => {
          const bytes = await Promise.all(images.map((image) => image.bytes()));
          const files = images.map(({ sha256 }) => `pictures/${sha256}.png`);
          for (const [i, file] of files.entries()) await writeFile(at(file), bytes[i]!);
          return { files, bytes, text: question, answer };
        }),
    );
    assert.ok(questions.length >= 12);
    const openAi = questions.map((one) => ({
      messages: [
        { role: 'user', content: [...shown(one), { type: 'text', text: one.text }] },
        { role: 'assistant', content: one.answer },
      ],
    }));
    await writeFile(at('openai.jsonl'), lines(openAi));
    const conversation = (
      { files, text, answer }: Question,
      [who, said]: readonly [string, string],
      [user, model]: readonly [string, string],
    ) => [
      { [who]: user, [said]: `${files.map(() => '<image>').join('')}${text}` },
      { [who]: model, [said]: answer },
    ];
    await writeFile(
      at('mantis.json'),
      JSON.stringify(
        questions.map((one, i) => ({
          id: `q${i}`,
          images: one.files,
          conversation: conversation(one, ['role', 'content'], ['user', 'assistant']),
        })),
      ),
    );
    await writeFile(
      at('llava.jsonl'),
      lines(
        questions.map((one, i) => ({
          id: `q${i}`,
          image: one.files,
          conversations: conversation(one, ['from', 'value'], ['human', 'gpt']),
        })),
      ),
    );
    // The second question goes back to the pictures of the first turn.
    await writeFile(
      at('turns.jsonl'),
      lines(
        questions.map((one, i) => ({
          messages: [
            { role: 'system', content: 'Be brief.' },
            {
              role: 'user',
              content: [...shown(one), { type: 'text', text: questions[(i + 1) % questions.length]!.text }],
            },
            { role: 'assistant', content: i % 2 === 0 ? 'true' : 'false' },
            { role: 'user', content: one.text },
            { role: 'assistant', content: `${one.answer.toUpperCase()}.` },
          ],
        })),
      ),
    );
  });
  after(async () => await rm(dir, { recursive: true, force: true }));

  it('are the same questions in every form that fine-tuning takes', async () => {
    const all = await Promise.all(['openai.jsonl', 'mantis.json', 'llava.jsonl'].map((path) => open(path)));
    assert.equal(new Set(all.map(({ digest }) => digest)).size, 1);
    const [records] = all;
    assert.equal(records?.length, questions.length);
    const first = await records!.get(0);
    assert.deepEqual(
      [first.question, first.answers, first.id],
      [`<image><image>${questions[0]!.text}`, [questions[0]!.answer], 'line 1'],
    );
    assert.deepEqual(await first.images[1]!.bytes(), Buffer.from(questions[0]!.bytes[1]!));
    for (const one of all) await one.close();
    await assert.rejects(first.images[0]!.bytes(), /picture/);
  });

  it('have their pictures fetched, each once, and are the same questions then', async () => {
    const asked: string[] = [];
    // The first is refused twice for a reason that passes, and breaks off once.
    const hiccups = [503, 429, 'breaks off'];
    const server = createServer((request, response) => {
      const name = (request.url ?? '').slice(1);
      if (name === questions[0]!.files[0] && hiccups.length > 0) {
        const hiccup = hiccups.shift();
        if (typeof hiccup === 'number') return void response.writeHead(hiccup, { 'retry-after': '1' }).end();
        return void request.socket.destroy();
      }
      asked.push(name);
      const bytes = questions
        .flatMap((one) => one.files.map((file, i) => (file === name ? [one.bytes[i]!] : [])))
        .flat();
      response.writeHead(bytes.length > 0 ? 200 : 404);
      response.end(bytes[0]);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const root = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const at404 = { files: ['gone.png'], text: 'x', answer: 'true' };
    const record = ({ files, text, answer }: Omit<Question, 'bytes'>) => ({
      messages: [
        {
          role: 'user',
          content: [
            ...files.map((file) => ({ type: 'image_url', image_url: { url: `${root}/${file}` } })),
            { type: 'text', text },
          ],
        },
        { role: 'assistant', content: answer },
      ],
    });
    try {
      await writeFile(at('addresses.jsonl'), lines([...questions, ...questions.slice(0, 2)].map(record)));
      const fetched = await open('addresses.jsonl', CHOICES, questions.length);
      const inFile = await open('openai.jsonl');
      assert.equal(fetched.digest, inFile.digest);
      assert.equal(hiccups.length, 0, 'what passes is tried again');
      assert.deepEqual(await (await fetched.get(1)).images[0]!.bytes(), Buffer.from(questions[1]!.bytes[0]!));
      const distinct = new Set(questions.flatMap(({ files }) => files));
      assert.deepEqual(asked.toSorted(), [...distinct].toSorted());
      for (const one of [fetched, inFile]) await one.close();
      await writeFile(at('gone.jsonl'), lines([record(at404)]));
      await assert.rejects(open('gone.jsonl'), /gone\.png: expected a picture, received status 404/);
    } finally {
      server.close();
    }
  });

  it('are asked as the conversations that they are', async () => {
    const records = await open('turns.jsonl');
    const record = await records.get(0);
    const prompt = task().prompt(record);
    const [before, asked] = [questions[1]!.text, questions[0]!.text];
    const earlier = [
      { role: 'user', parts: [{ image: 0 }, { image: 1 }, before] },
      { role: 'assistant', parts: ['true'] },
    ];
    assert.deepEqual([prompt.system, prompt.earlier, prompt.parts], ['Be brief.', earlier, [asked]]);
    assert.equal(prompt.maxTokens, Buffer.byteLength(record.answers[0]!) + 8);
    assert.match(record.question, /^user: <image><image>.*\nassistant: true\nuser: /);

    const blind = await applyVariant(task(), record, { control: 'text-only' });
    assert.deepEqual(blind.prompt.earlier?.[0]?.parts, [before]);
    const merged = formPrompt(prompt, { mode: 'merge' });
    assert.deepEqual(
      [merged.images.length, merged.earlier?.[0]?.parts, merged.parts],
      [1, [{ image: 0 }, before], [asked]],
    );
    const shot = formPrompt(prompt, { mode: 'sequence', oneShot: { image: record.images[0]!, text: 'solved' } });
    assert.deepEqual(shot.earlier?.[0]?.parts.slice(0, 3), [{ image: 0 }, 'solved', { image: 1 }]);
    const spaced = wrapTask(task(), { layout: 'pictures-first' }).prompt(record);
    assert.deepEqual(spaced.earlier?.[0]?.parts, earlier[0]!.parts);
    // What was said before is a part of what an answer belongs to.
    const key = (changed: Partial<EvalPrompt>) =>
      answerKey({ identity: 'm', comparesChoices: true }, { ...prompt, ...changed });
    assert.equal(new Set([key({}), key({ earlier: [] }), key({ earlier: prompt.earlier!.slice(0, 1) })]).size, 3);
    await records.close();
  });

  it('have the same answer written as compared, and an earlier turn counts', async () => {
    const model = await EngineEvalModel.open({ dir: NANO, threads: 1 });
    try {
      const records = await open('turns.jsonl');
      const compared = await runEval({ task: task(), records, model });
      const written = await runEval({
        task: ownTask({ choices: CHOICES, answerBy: 'generation', open: () => assert.fail() }),
        records,
        model,
      });
      assert.deepEqual(
        written.items.map(({ parsed }) => parsed),
        compared.items.map(({ parsed }) => parsed),
      );
      // Letters and full stop of the references are another's way of writing.
      assert.ok(compared.items.some(({ score }) => score === 1));
      const prompt = task().prompt(await records.get(0));
      const ask = async (changed: Partial<EvalPrompt>) =>
        (await model.answer({ ...prompt, ...changed }, new AbortController().signal)).logprobs;
      const others = [{ role: 'user', parts: [{ image: 0 }, { image: 1 }, 'other'] }, prompt.earlier![1]!] as const;
      assert.notDeepEqual(await ask({ earlier: others }), await ask({}));
      await records.close();
    } finally {
      await model.close();
    }
  });

  it('are another evaluation with other choices, other files or fewer of them', async () => {
    const hash = async (path: string, choices: readonly string[], limit?: number) => {
      const records = await open(path, choices, limit);
      try {
        return specHash(evalSpec({ task: task(choices), records }));
      } finally {
        await records.close();
      }
    };
    const all = [
      await hash('openai.jsonl', CHOICES),
      await hash('openai.jsonl', []),
      await hash('openai.jsonl', CHOICES, 5),
      await hash('turns.jsonl', CHOICES),
    ];
    assert.equal(new Set(all).size, all.length);
    assert.equal(await hash('mantis.json', CHOICES), all[0]);
  });

  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['ends with the user', { messages: [{ role: 'user', content: 'hi' }] }, /line 2/],
    [
      'has an answer that is no choice',
      {
        messages: [
          { role: 'user', content: 'hi' },
          { role: 'assistant', content: 'maybe' },
        ],
      },
      /line 2: expected an answer among the choices true, false, received "maybe"/,
    ],
    [
      'has a picture elsewhere',
      {
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'file-abc123abc123' } }] },
          { role: 'assistant', content: 'true' },
        ],
      },
      /expected pictures in the file, beside it or at an address, received file-abc123abc123/,
    ],
    [
      'has a picture at an address where none is',
      {
        messages: [
          { role: 'user', content: [{ type: 'image_url', image_url: { url: 'http://127.0.0.1:9/none.png' } }] },
          { role: 'assistant', content: 'true' },
        ],
      },
      /127\.0\.0\.1:9\/none\.png: it cannot be reached/,
    ],
    [
      'names a picture that is not there',
      {
        images: ['pictures/none.png'],
        conversation: [
          { role: 'user', content: '<image> x' },
          { role: 'assistant', content: 'true' },
        ],
      },
      /line 2.*none\.png/,
    ],
  ];
  for (const [name, record, said] of wrong)
    it(`are refused as a whole where one ${name}`, async () => {
      const right = {
        messages: [
          { role: 'user', content: 'hi' },
          { role: 'assistant', content: 'true' },
        ],
      };
      const rest = 'images' in record ? { conversation: right.messages } : right;
      await writeFile(at('wrong.jsonl'), lines([rest, record]));
      await assert.rejects(open('wrong.jsonl'), said);
    });
});
