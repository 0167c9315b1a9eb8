import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after } from 'node:test';
import type { DataExample } from '../../../gpu-backend/train/data/example.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { DataFile } from '../../../shared/contract/backend.ts';
import type { DatasetProblem } from '../../../shared/contract/datasets.ts';

const folder = await mkdtemp(join(tmpdir(), 'forms-'));
after(() => rm(folder, { recursive: true, force: true }));

/** Passes for a PNG as far as its first bytes are looked at. */
const png = (seed: number) => Buffer.from(`\x89PNG\r\n\x1a\n picture ${seed}`, 'latin1');
const dataUrl = (seed: number) => `data:image/png;base64,${png(seed).toString('base64')}`;

let number = 0;
async function read(records: readonly unknown[], file: Partial<DataFile> = {}, imageRoot?: string) {
  const dir = join(folder, `store-${number++}`);
  const path = join(folder, `data-${number}.jsonl`);
  await writeFile(path, records.map((record) => JSON.stringify(record)).join('\n'));
  const problems: DatasetProblem[] = [];
  const stored = { id: 'file-1', bytes: 1, sha256: 'x' };
  const { store, files } = await importData(
    { files: [{ file_id: 'file-1', filename: 'data.jsonl', file: stored, ...file }], balancing: false },
    [path],
    dir,
    {
      onProblem: (problem) => problems.push(problem),
      ...(imageRoot === undefined ? {} : { imageRoot: () => imageRoot }),
    },
  );
  const examples: DataExample[] = [];
  for (let i = 0; i < store.length; i++) examples.push(await store.get(i));
  const images = await Promise.all(
    examples
      .flatMap((e) => e.images)
      .map(async (ref) => (/^sha/.test(ref) ? (await store.readImage(ref)).toString() : ref)),
  );
  await store.close();
  return { examples, problems, images, counts: files[0] };
}

const seen = (problems: readonly DatasetProblem[]) =>
  problems.map(({ line, code, param, message_index, part_index }) => [line, code, param, message_index, part_index]);

const text = (example: DataExample | undefined) =>
  example?.messages.map(
    ({ role, parts }) => `${role}: ${parts.map((p) => (p.type === 'text' ? p.text : `{${p.image}}`)).join('')}`,
  );

test('OpenAI: a wrong field does not hide wrong pictures', async () => {
  const picture = (url: string) => ({ type: 'image_url', image_url: { url } });
  const { problems, counts } = await read([
    {
      messages: [
        {
          role: 'user',
          content: [picture('data:image/png;base64,AAAA'), { type: 'text', text: 'a' }, picture(dataUrl(1))],
        },
        { role: 'tool', content: [picture('ftp://x'), { type: 'image_url' }] },
        { role: 'assistant', content: 'b' },
      ],
      extra: 1,
    },
    { messages: 'none' },
    { messages: [null, { role: 'assistant', content: 7 }] },
  ]);
  const of = (at: number) => problems.filter(({ line }) => line === at).map(({ code, param }) => [code, param]);
  const first = of(1).map(([, param]) => param);
  for (const param of [
    'extra',
    'messages[0].content[0].image_url',
    'messages[1].role',
    'messages[1].content[0].image_url',
  ])
    assert.equal(first.filter((p) => p === param).length, 1, `${param}, among ${first}`);
  assert.ok(!first.includes('messages[0].content[2].image_url'), 'a good picture beside them');
  assert.ok(of(2).length > 0 && of(3).length > 0);
  assert.equal(counts?.bad, 3);
});

test('OpenAI: parts become parts, and a placeholder that a user types stays text', async () => {
  const { examples, problems, images } = await read([
    {
      messages: [
        { role: 'system', content: 'Be brief.' },
        {
          role: 'user',
          content: [
            { type: 'image_url', image_url: { url: dataUrl(1), detail: 'low' } },
            { type: 'text', text: 'What is <image>?' },
            { type: 'image_file', image_file: { file_id: 'file-abc' } },
            { type: 'image_url', image_url: { url: 'https://example.com/a.png' } },
          ],
        },
        { role: 'assistant', content: 'This.', weight: 0 },
        { role: 'user', content: 'And?' },
        { role: 'assistant', content: 'That.' },
      ],
    },
  ]);
  assert.deepEqual(problems, []);
  assert.deepEqual(text(examples[0]), [
    'system: Be brief.',
    'user: {0}What is <image>?{1}{2}',
    'assistant: This.',
    'user: And?',
    'assistant: That.',
  ]);
  assert.deepEqual(images, [png(1).toString(), 'file-abc', 'https://example.com/a.png']);
  assert.equal(examples[0]?.messages[2]?.weight, 0);
  assert.deepEqual(examples[0]?.notes, [{ detail: 'low' }, {}, {}]);
});

test('OpenAI: everything that is wrong with a line is said, with message and part', async () => {
  const picture = (url: string) => ({ type: 'image_url', image_url: { url } });
  const { problems, examples, counts } = await read([
    {
      messages: [
        { role: 'assistant', content: [picture(dataUrl(1))] },
        {
          role: 'user',
          content: [picture('data:image/png;base64,@@@@'), picture('ftp://x'), picture('data:text/plain;base64,QQ==')],
        },
      ],
    },
    { messages: [{ role: 'tool', content: 5 }], extra: 1 },
    {
      messages: [
        { role: 'user', content: [picture(`data:image/jpeg;base64,${png(1).toString('base64')}`)] },
        { role: 'assistant', content: 'x', weight: 0 },
      ],
    },
    {
      messages: [
        { role: 'user', content: Array.from({ length: 70 }, () => picture(dataUrl(1))) },
        { role: 'assistant', content: 'x' },
      ],
    },
    [],
    { text: 'x' },
  ]);
  assert.deepEqual(examples, []);
  assert.deepEqual(counts, { records: 6, bad: 6, leftOut: 0, usable: 0, tooManyImages: 0, taken: 0, entries: 0 });
  assert.deepEqual(seen(problems), [
    [1, 'invalid_value', 'messages[1].role', 1, null],
    [1, 'image_not_allowed_here', 'messages[0].content[0].image_url', 0, 0],
    [1, 'invalid_base64_image', 'messages[1].content[0].image_url', 1, 0],
    [1, 'invalid_image_url', 'messages[1].content[1].image_url', 1, 1],
    [1, 'unsupported_image_media_type', 'messages[1].content[2].image_url', 1, 2],
    [2, 'invalid_value', 'messages[0].role', 0, null],
    [2, 'invalid_type', 'messages[0].content', 0, null],
    [2, 'unknown_parameter', 'extra', null, null],
    [3, 'invalid_value', 'messages', null, null],
    [3, 'invalid_image_format', 'messages[0].content[0].image_url', 0, 0],
    [4, 'too_many_images', 'messages[0].content[64].image_url', 0, 64],
    [5, 'invalid_type', null, null, null],
    [6, 'missing_required_parameter', 'messages', null, null],
    [6, 'unknown_parameter', 'text', null, null],
  ]);
});

test('Mantis, LLaVA and ShareGPT: placeholders become pictures over all turns', async () => {
  const { examples, problems, images } = await read([
    {
      id: 7,
      skill: 'comparison',
      images: [dataUrl(1), { bytes: null, path: dataUrl(2) }, 'file-3'],
      conversation: [
        { role: 'user', content: '<image><image>\nCompare.' },
        { role: 'assistant', content: 'Different.' },
        { role: 'user', content: 'And <image>?' },
        { role: 'assistant', content: 'Too.' },
      ],
    },
    {
      image: dataUrl(4),
      conversations: [
        { from: 'human', value: '<image>\nWhat?' },
        { from: 'gpt', value: 'A cat.' },
      ],
    },
    {
      system: 'Be kind.',
      images: [],
      conversations: [
        { from: 'gpt', value: 'Hello!' },
        { from: 'human', value: 'Hi.' },
        { from: 'gpt', value: 'Hi.' },
      ],
    },
  ]);
  assert.deepEqual(examples.map(text), [
    ['user: {0}{1}\nCompare.', 'assistant: Different.', 'user: And {2}?', 'assistant: Too.'],
    ['user: {0}\nWhat?', 'assistant: A cat.'],
    ['system: Be kind.', 'user: Hi.', 'assistant: Hi.'],
  ]);
  assert.deepEqual(images, [png(1).toString(), png(2).toString(), 'file-3', png(4).toString()]);
  assert.deepEqual([examples[0]?.id, examples[0]?.skill, examples[1]?.skill], ['7', 'comparison', null]);
  assert.deepEqual(
    problems.map(({ line, severity, code, message_index }) => [line, severity, code, message_index]),
    [[3, 'warning', 'leading_turn_skipped', 0]],
  );
});

test('dialogues: both counts of a mismatch, roles, order and pictures are said at once', async () => {
  const turns = (...speakers: string[]) => speakers.map((from) => ({ from, value: 'x' }));
  const { problems } = await read([
    { images: [dataUrl(1)], conversations: [{ from: 'human', value: '<image><image>' }, ...turns('gpt')] },
    { images: [dataUrl(1)], conversations: turns('human', 'gpt') },
    { conversations: turns('human', 'human', 'gpt') },
    { conversations: turns('human', 'gpt', 'human') },
    { conversations: [{ from: 'observation', value: 'x' }, { from: 'human' }, 5] },
    {
      conversations: [
        { from: 'human', value: 'x' },
        { from: 'gpt', value: '<image>' },
      ],
      images: ['a/b.jpg', {}, 7],
    },
    { conversation: 'x' },
    { conversation: [] },
  ]);
  assert.deepEqual(seen(problems), [
    [1, 'placeholder_mismatch', 'images', null, null],
    [2, 'placeholder_mismatch', 'images', null, null],
    [3, 'invalid_value', 'conversations[1].value', 1, null],
    [4, 'invalid_value', 'conversations[2].value', 2, null],
    [5, 'invalid_value', 'conversations[0].from', 0, null],
    [5, 'missing_required_parameter', 'conversations[1].value', 1, null],
    [5, 'invalid_type', 'conversations[2]', 2, null],
    [6, 'image_not_allowed_here', 'conversations[1].value', 1, null],
    [6, 'placeholder_mismatch', 'images', null, null],
    [6, 'image_file_not_found', 'images[0]', null, null],
    [6, 'invalid_type', 'images[1]', null, null],
    [6, 'invalid_type', 'images[2]', null, null],
    [7, 'invalid_type', 'conversation', null, null],
    [8, 'invalid_value', 'conversation', null, null],
  ]);
  assert.match(problems[0]?.message ?? '', /placeholders \(2\).*1 pictures/);
  assert.match(problems[1]?.message ?? '', /placeholders \(0\).*1 pictures.*images_first/);
});

test('images_first puts all pictures before the first user turn, where there is no placeholder at all', async () => {
  const record = {
    images: [dataUrl(1), dataUrl(2)],
    conversations: [
      { from: 'human', value: 'Tell.' },
      { from: 'gpt', value: 'So.' },
    ],
  };
  const { examples, problems } = await read([record], { images_first: true });
  assert.deepEqual(problems, []);
  assert.deepEqual(text(examples[0]), ['user: {0}{1}Tell.', 'assistant: So.']);
  const half = {
    ...record,
    conversations: [
      { from: 'human', value: '<image>' },
      { from: 'gpt', value: 'So.' },
    ],
  };
  assert.deepEqual(seen((await read([half], { images_first: true })).problems), [
    [1, 'placeholder_mismatch', 'images', null, null],
  ]);
});

test('paths are read from the root alone, whatever they and links say', async () => {
  const root = join(folder, 'root');
  await mkdir(join(root, 'a'), { recursive: true });
  await writeFile(join(root, 'a', '1.png'), png(1));
  await writeFile(join(folder, 'secret.png'), png(9));
  await symlink(join(folder, 'secret.png'), join(root, 'link.png'));
  const record = (...images: string[]) => ({
    images,
    conversations: [
      { from: 'human', value: '<image>'.repeat(images.length) },
      { from: 'gpt', value: 'So.' },
    ],
  });
  const { examples, problems, images } = await read(
    [record('a/1.png', 'a/../a/1.png'), record('../secret.png', 'link.png', join(root, 'a', '1.png'), 'a', 'none.png')],
    {},
    root,
  );
  assert.deepEqual(images, [png(1).toString(), png(1).toString()]);
  assert.deepEqual(examples[0]?.notes, [{ path: 'a/1.png' }, { path: 'a/../a/1.png' }]);
  assert.deepEqual(
    problems.map(({ line, code, param }) => [line, code, param]),
    [0, 1, 2, 3, 4].map((i) => [2, 'image_file_not_found', `images[${i}]`]),
  );
});

test('the format of a subset overrides what is found', async () => {
  const both = {
    messages: [],
    conversations: [
      { from: 'human', value: 'a' },
      { from: 'gpt', value: 'b' },
    ],
  };
  assert.equal((await read([both], { format: 'sharegpt' })).examples.length, 1);
  assert.equal((await read([both])).examples.length, 0);
  assert.equal((await read([{ conversations: both.conversations }], { format: 'openai' })).examples.length, 0);
});
