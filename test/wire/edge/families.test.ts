/** Checkpoints of the families whose pictures keep their own sizes, served and tuned by the real Worker and the real backend. */
import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import OpenAI, { toFile } from 'openai';
import sharp from 'sharp';
import { importCheckpoint } from '../../../gpu-backend/models/import.ts';
import { chooseStorage } from '../../../gpu-backend/models/storage.ts';
import { imageTokens } from '../../../shared/contract/models.ts';
import { writeRandomFamily } from '../../fixtures/random-families.ts';
import { waitForEnd } from '../e2e/jobs.ts';
import { type Installation, startInstallation } from './installation.ts';

/** The template that Idefics2's processor carries. */
const IDEFICS2_JINJA =
  "{% for message in messages %}{{message['role'].capitalize()}}{% if message['content'][0]['type'] == 'image' %}{{':'}}" +
  "{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}" +
  "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

const SIZES = { wide: { width: 64, height: 25 }, high: { width: 18, height: 47 } } as const;

async function part(size: { width: number; height: number }, background: string) {
  const png = await sharp({ create: { ...size, channels: 3, background } })
    .png()
    .toBuffer();
  return { type: 'image_url' as const, image_url: { url: `data:image/png;base64,${png.toString('base64')}` } };
}

let dir: string;
let door: Installation;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'mantis-families-'));
  const models = { idefics2: join(dir, 'idefics2'), fuyu: join(dir, 'fuyu'), imported: join(dir, 'imported') };
  await writeRandomFamily(models.idefics2, 'idefics2');
  await writeFile(join(models.idefics2, 'chat_template.json'), JSON.stringify({ chat_template: IDEFICS2_JINJA }));
  await writeRandomFamily(models.fuyu, 'fuyu');
  const storage = chooseStorage({ precision: 'int8', blockSize: 16 });
  await importCheckpoint({ from: models.idefics2, out: models.imported, storage });
  door = await startInstallation({ models });
});
after(async () => {
  await door.close();
  await rm(dir, { recursive: true, force: true });
});

const ask = (model: string, content: OpenAI.Chat.ChatCompletionContentPart[]) => ({
  model,
  temperature: 0,
  max_tokens: 8,
  messages: [{ role: 'user' as const, content }],
});

interface Limits {
  readonly tokens_per_image: number;
  readonly image_grid: { width: number; height: number; patch: number; row_end: number } | null;
}

async function limitsOf(model: string): Promise<Limits> {
  return ((await door.openai.models.retrieve(model)) as unknown as { limits: Limits }).limits;
}

describe('pictures of two sizes in one question', () => {
  for (const model of ['idefics2', 'fuyu']) {
    it(`${model}: is answered, streamed as whole, and its image tokens are those of the model's own rule`, async () => {
      const content = [
        await part(SIZES.wide, '#c22'),
        { type: 'text' as const, text: ' and ' },
        await part(SIZES.high, '#22c'),
        { type: 'text' as const, text: 'Which one shows more?' },
      ];
      const whole = await door.openai.chat.completions.create(ask(model, content));
      const details = whole.usage?.prompt_tokens_details as { image_tokens?: number } | undefined;
      const { tokens_per_image: most, image_grid: grid } = await limitsOf(model);
      assert.equal(grid === null, model === 'idefics2');
      const card = {
        tokensPerImage: most,
        ...(grid === null ? {} : { imageGrid: { ...grid, rowEnd: grid.row_end } }),
      };
      const counts = [SIZES.wide, SIZES.high].map((size) => imageTokens(card, size));
      if (grid !== null) assert.notEqual(counts[0], counts[1]);
      assert.equal(details?.image_tokens, counts[0]! + counts[1]!);
      assert.ok((whole.usage?.completion_tokens ?? 0) > 0);
      const stream = await door.openai.chat.completions.create({ ...ask(model, content), stream: true });
      let streamed = '';
      for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? '';
      assert.equal(streamed, whole.choices[0]?.message.content);
      const swapped = await door.openai.chat.completions.create(
        ask(model, [content[2]!, content[1]!, content[0]!, content[3]!]),
      );
      assert.equal(swapped.usage?.prompt_tokens, whole.usage?.prompt_tokens);
    });
  }

  it('fuyu: what is too large together is refused at the door, with the count of each', async () => {
    const large = await part({ width: 60, height: 40 }, '#2c2');
    const request = ask('fuyu', [...Array.from({ length: 20 }, () => large), { type: 'text', text: '?' }]);
    const error = await door.openai.chat.completions.create(request).then(
      () => assert.fail('20 x 28 tokens do not fit a context of 512'),
      (caught: unknown) => caught,
    );
    assert.ok(error instanceof OpenAI.APIError && error.status === 400);
    assert.equal(error.code, 'context_length_exceeded');
    assert.match(error.message, /20 images: 20 x 28\)/);
  });
});

const JOB_TIMEOUT_MS = 180_000;

describe('a training file', () => {
  it('fuyu: a line whose pictures are too large together is refused by number before anything is trained', async () => {
    const line = async (count: number) => {
      const large = await part({ width: 60, height: 40 }, '#2c2');
      const content = [...Array.from({ length: count }, () => large), { type: 'text', text: '?' }];
      return JSON.stringify({
        messages: [
          { role: 'user', content },
          { role: 'assistant', content: 'no' },
        ],
      });
    };
    const { openai } = door;
    const lines = Buffer.from(`${await line(2)}\n${await line(20)}`);
    const file = await openai.files.create({ file: await toFile(lines, 'l.jsonl'), purpose: 'fine-tune' });
    const created = await openai.fineTuning.jobs.create({ model: 'fuyu', training_file: file.id });
    const job = await waitForEnd(openai, created.id, JOB_TIMEOUT_MS);
    assert.equal(job.status, 'failed');
    assert.equal(job.error?.code, 'invalid_training_file');
    assert.match(
      job.error?.message ?? '',
      /line 2, .*at most the 512 tokens.*received \d{3} tokens \(560 of them for 20 images\)/,
    );
  });
});

describe('one epoch of adapters', () => {
  it('idefics2: ends well, and the tuned model answers', async () => {
    const lines = await Promise.all(
      Array.from({ length: 6 }, async (_, i) =>
        JSON.stringify({
          messages: [
            {
              role: 'user',
              content: [
                await part(i % 2 === 0 ? SIZES.wide : SIZES.high, i % 3 === 0 ? '#c22' : '#22c'),
                ...(i % 2 === 0 ? [await part(SIZES.high, '#cc2')] : []),
                { type: 'text', text: 'Which color?' },
              ],
            },
            { role: 'assistant', content: i % 3 === 0 ? 'a circle' : 'two squares' },
          ],
        }),
      ),
    );
    const { openai } = door;
    const file = await openai.files.create({
      file: await toFile(Buffer.from(lines.join('\n')), 'l.jsonl'),
      purpose: 'fine-tune',
    });
    const created = await openai.fineTuning.jobs.create({
      model: 'idefics2',
      training_file: file.id,
      seed: 1,
      method: {
        type: 'supervised',
        supervised: { hyperparameters: { n_epochs: 1, batch_size: 3, learning_rate_multiplier: 4 } },
      },
    });
    const job = await waitForEnd(openai, created.id, JOB_TIMEOUT_MS);
    assert.equal(job.status, 'succeeded', JSON.stringify(job.error));
    const tuned = job.fine_tuned_model ?? assert.fail('a succeeded job names its model');
    const content = [
      await part(SIZES.wide, '#c22'),
      await part(SIZES.high, '#22c'),
      { type: 'text' as const, text: 'Which color?' },
    ];
    const answer = await openai.chat.completions.create(ask(tuned, content));
    assert.ok((answer.usage?.completion_tokens ?? 0) > 0);
    const details = answer.usage?.prompt_tokens_details as { image_tokens?: number } | undefined;
    assert.equal(details?.image_tokens, 2 * (await limitsOf(tuned)).tokens_per_image);
  });
});

describe('an imported model', () => {
  it('answers about two pictures, and a job on it is refused by the name of the field', async () => {
    const content = [
      await part(SIZES.wide, '#c02020'),
      await part(SIZES.high, '#2020c0'),
      { type: 'text' as const, text: 'Compare the first and the second picture.' },
    ];
    const answer = await door.openai.chat.completions.create(ask('imported', content));
    assert.ok((answer.usage?.completion_tokens ?? 0) > 0);
    const line = JSON.stringify({
      messages: [
        { role: 'user', content: 'Compare.' },
        { role: 'assistant', content: 'first' },
      ],
    });
    const file = await door.openai.files.create({
      file: await toFile(Buffer.from(`${line}\n`.repeat(10)), 'data.jsonl'),
      purpose: 'fine-tune',
    });
    await assert.rejects(door.openai.fineTuning.jobs.create({ model: 'imported', training_file: file.id }), {
      status: 400,
      param: 'model',
      message: /a model that can be tuned.*received imported/,
    });
  });
});
