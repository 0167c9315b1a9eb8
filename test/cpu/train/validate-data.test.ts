/** What validation says about data: every bad line with its reason, and training on exactly the others. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { sha256File, sha256Hex } from '../../../gpu-backend/io/digest.ts';
import { loadBaseModel } from '../../../gpu-backend/train/base-model.ts';
import { SampleMaker } from '../../../gpu-backend/train/chat-samples.ts';
import { measureExamples, openExamples } from '../../../gpu-backend/train/examples.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneData } from '../../../gpu-backend/train/finetune-spec.ts';
import type { ValidateHooks, ValidateInput } from '../../../gpu-backend/train/validate/input.ts';
import { UnavailablePicture } from '../../../gpu-backend/train/validate/pictures.ts';
import { type Validated, validateData } from '../../../gpu-backend/train/validate/validate.ts';
import type { LeftOut } from '../../../shared/contract/backend.ts';
import type { DatasetProblem, Subset } from '../../../shared/contract/datasets.ts';
import type { StageDraft } from '../../../shared/contract/training.ts';
import { FAMILIES } from '../../fixtures/random-families.ts';
import { writeRandomNano } from '../../fixtures/random-nano.ts';
import { chatLine, patternPng, poisons } from './poisoned.ts';
import { writeTinyJob } from './tiny.ts';

const NANO = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
const CHAT = fileURLToPath(new URL('../../../../shared/data/mantis-chat/train.json', import.meta.url));
const LORA: StageDraft = { train: 'lora', n_epochs: 1, batch_size: null, learning_rate_multiplier: 1, data: 0 };

async function folder(t: { after: (fn: () => unknown) => void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-validate-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function fileOf(
  path: string,
  lines: readonly (string | Buffer)[],
  subset: Partial<Subset> = {},
): Promise<FineTuneData> {
  const bytes = Buffer.concat(lines.flatMap((line) => [Buffer.from(line), Buffer.from('\n')]));
  await writeFile(path, bytes);
  return dataAt(path, bytes.length, sha256Hex(bytes), subset);
}

function dataAt(path: string, bytes: number, sha256: string, subset: Partial<Subset> = {}): FineTuneData {
  const id = `file-${sha256.slice(0, 8)}`;
  const filename = path.slice(dirname(path).length + 1);
  return {
    spec: { files: [{ file_id: id, ...subset, file: { id, bytes, sha256 }, filename }], balancing: false },
    paths: [path],
  };
}

const fetchImage: NonNullable<ValidateHooks['fetchImage']> = async (reference) => {
  throw new UnavailablePicture('image_file_not_found', `image: expected a file, received ${reference}.`);
};

async function validate(
  dir: string,
  input: Partial<ValidateInput> & Pick<ValidateInput, 'training'>,
  hooks: ValidateHooks = {},
): Promise<Validated> {
  const workDir = await mkdtemp(join(dir, 'work-'));
  return await validateData(
    { baseDir: NANO, stages: [LORA], maxBadShare: 0.1, workDir, ...input },
    { fetchImage, ...hooks },
  );
}

const errorsOf = ({ report }: Validated): DatasetProblem[] =>
  report.problems.filter(({ severity }) => severity === 'error');

async function weightsOf(
  dir: string,
  baseDir: string,
  data: FineTuneData,
  leftOut: LeftOut,
): Promise<{ result: unknown; digest: string }> {
  const outDir = join(dir, 'out');
  const result = await runFineTune(
    {
      baseDir,
      data: [data],
      stages: [{ ...LORA, batch_size: 8 }],
      leftOut,
      seed: 3,
      workDir: join(dir, 'work'),
      outDir,
    },
    { readImage: async (reference) => assert.fail(`training asks for ${reference}`) },
  );
  const last =
    (await readdir(outDir))
      .filter((name) => name.startsWith('step-'))
      .sort()
      .at(-1) ?? '';
  return { result, digest: await sha256File(join(outDir, last, 'adapter_model.safetensors')) };
}

test('2,000 rows, 5 % bad in 20 ways: each is named, and training is that on the others, bit for bit', async (t) => {
  const dir = await folder(t);
  const ways = await poisons();
  assert.equal(ways.length, 20);
  const pictures: string[] = [];
  for (let i = 0; i < 40; i++) pictures.push(`data:image/png;base64,${(await patternPng(100 + i)).toString('base64')}`);
  const lines: (string | Buffer)[] = [];
  const clean: string[] = [];
  const expected = new Map<number, string>();
  for (let i = 0; i < 2_000; i++) {
    // Every twentieth line, at a place that moves; five of each kind.
    const isBad = i % 20 === ((i / 20) % 20) >> 0;
    const way = ways[Math.floor(i / 20) % 20];
    if (isBad && way !== undefined) {
      expected.set(i + 1, way.code);
      lines.push(way.line(i));
      continue;
    }
    const shown = Array.from({ length: i % 3 }, (_, k) => pictures[(i * 7 + k) % pictures.length] ?? '');
    const line = chatLine(shown, `what about number ${i} of ${i % 17}`, `it is ${i % 11} and ${i % 7}`);
    lines.push(line);
    clean.push(line);
  }
  assert.equal(expected.size, 100);
  const poisoned = await fileOf(join(dir, 'poisoned.jsonl'), lines, { max_size: 24 });

  const found = await validate(dir, { training: [poisoned] });
  const told = new Set(errorsOf(found).map(({ line }) => line));
  assert.deepEqual([...told], [...expected.keys()], 'every bad line is told, and no other');
  for (const [line, code] of expected) {
    const codes = errorsOf(found).flatMap((problem) => (problem.line === line ? [problem.code] : []));
    assert.ok(codes.includes(code), `line ${line}: expected ${code}, received ${codes}`);
  }
  for (const { message, line } of errorsOf(found)) assert.ok(line !== null && /expected/.test(message), message);
  const [summary] = found.report.training;
  assert.deepEqual([summary?.examples, summary?.usable, summary?.bad, summary?.not_taken], [2_000, 1_900, 100, 1_876]);
  assert.deepEqual([found.report.verdict, found.report.bad_share], ['accepted', 0.05]);
  assert.deepEqual(found.leftOut, [{ data: 0, file: poisoned.spec.files[0]?.file_id, lines: [...expected.keys()] }]);
  assert.deepEqual(found.trainingExamples, [24]);

  // Twenty lines of these with one that is bad: the same share, on both sides of the bound.
  const some = await fileOf(join(dir, 'some.jsonl'), lines.slice(0, 20));
  const shares = [0.05, 0.049];
  const verdicts = shares.map(async (maxBadShare) => (await validate(dir, { training: [some], maxBadShare })).report);
  assert.deepEqual(
    (await Promise.all(verdicts)).map(({ verdict, bad_share }) => [verdict, bad_share]),
    [
      ['accepted', 0.05],
      ['refused', 0.05],
    ],
  );

  const baseDir = join(dir, 'base');
  await writeRandomNano(baseDir);
  const whole = await fileOf(join(dir, 'clean.jsonl'), clean, { max_size: 24 });
  const fromPoisoned = await weightsOf(join(dir, 'a'), baseDir, poisoned, found.leftOut);
  const fromClean = await weightsOf(join(dir, 'b'), baseDir, whole, []);
  assert.deepEqual(fromPoisoned, fromClean);
  const refused = await runFineTune(
    {
      baseDir,
      data: [some],
      stages: [{ ...LORA, batch_size: 8 }],
      leftOut: [],
      seed: 3,
      workDir: join(dir, 'c'),
      outDir: join(dir, 'c-out'),
    },
    {},
  );
  assert.equal(refused.outcome, 'failed', 'a bad line that nobody has ruled out is never passed over');
});

test('copies, near copies and leaks are warnings with the line of the other', async (t) => {
  const dir = await folder(t);
  const photo = await patternPng(7, 200, 150);
  const png = (bytes: Buffer): string => `data:image/png;base64,${bytes.toString('base64')}`;
  const jpeg = (bytes: Buffer): string => `data:image/jpeg;base64,${bytes.toString('base64')}`;
  const again = jpeg(await sharp(photo).resize(160, 120).jpeg({ quality: 70 }).toBuffer());
  const other = png(await patternPng(8, 200, 150));
  const words =
    'the quick brown fox jumps over the lazy dog and then runs on through the wood to the river where it drinks';
  const training = await fileOf(join(dir, 'train.jsonl'), [
    chatLine([png(photo)], words, 'a pattern of many colours'),
    chatLine([png(photo)], words, 'a pattern of many colours'),
    chatLine([again], `${words} twice`, 'a pattern of many colours'),
    chatLine([other], words, 'a pattern of many colours'),
    chatLine([], `${words} without any picture`, 'nothing is shown'),
    chatLine([], 'something else entirely', 'indeed'),
  ]);
  const validation = await fileOf(join(dir, 'valid.jsonl'), [
    chatLine([], 'something else entirely', 'indeed'),
    chatLine([again], 'a question of its own', 'an answer of its own'),
    chatLine([png(await patternPng(9))], 'a picture that nobody knows', 'so it is'),
  ]);
  const { report } = await validate(dir, { training: [training], validation });
  const about = (code: string): (number | string | null)[][] =>
    report.problems.filter((p) => p.code === code).map(({ data, line, message }) => [data, line, message]);
  assert.deepEqual(about('duplicate'), [[0, 2, 'The same example as line 1.']]);
  assert.deepEqual(about('near_duplicate'), [[0, 3, 'Almost the same example as line 1.']]);
  assert.deepEqual(about('leaked_example'), [['validation', 1, 'The same example is in the training data, line 6.']]);
  assert.deepEqual(about('leaked_image'), [['validation', 2, 'Image 1 is in the training data too, pixel for pixel.']]);
  assert.deepEqual(report.duplicates, { exact: 1, near: 1 });
  assert.deepEqual(report.leakage, { images: 1, examples: 1 });
  assert.equal(report.verdict, 'accepted');

  const only = await fileOf(join(dir, 'valid2.jsonl'), [
    chatLine([jpeg(await sharp(photo).jpeg({ quality: 55 }).toBuffer())], 'a question of its own', 'yes'),
  ]);
  const near = await validate(dir, { training: [training], validation: only });
  assert.deepEqual(
    near.report.problems.filter(({ code }) => code === 'leaked_image').map(({ message }) => message),
    ['Image 1 looks the same as one of the training data.'],
  );
});

test('what is held out is read with the rest: leaks are counted apart, one bad line refuses all, nothing is left out of it', async (t) => {
  const dir = await folder(t);
  const url = async (seed: number) => `data:image/png;base64,${(await patternPng(seed)).toString('base64')}`;
  const [shared, other, unseen] = [await url(1), await url(2), await url(3)];
  const training = await fileOf(join(dir, 'train.jsonl'), [
    chatLine([shared], 'What is in it, first?', 'A thing.'),
    chatLine([other], 'And what is in that?', 'Another.'),
  ]);
  const questions = [
    chatLine([shared], 'Is there anything to see at all?', 'Yes, there is.'),
    chatLine([other], 'And what is in that?', 'Another.'),
    chatLine([unseen], 'How many corners does it have?', 'Four.'),
  ];
  const heldOut = async (name: string, lines: readonly string[]) => ({
    data: await fileOf(join(dir, name), lines),
    param: 'gate.held_out_file',
  });
  const good = await validate(dir, { training: [training], heldOut: [await heldOut('held.jsonl', questions)] });
  assert.equal(good.report.verdict, 'accepted');
  assert.equal(good.report.held_out?.[0]?.usable, 3);
  assert.deepEqual(good.report.leakage, { images: 0, examples: 0, held_out_images: 2, held_out_examples: 1 });
  assert.deepEqual(
    good.report.problems.map(({ code, data, line }) => [code, data, line]),
    [
      ['leaked_image', 'held_out', 1],
      ['leaked_example', 'held_out', 2],
      ['leaked_image', 'held_out', 2],
    ],
  );
  assert.deepEqual(good.leftOut, []);

  const ends = JSON.stringify({
    messages: [
      { role: 'user', content: 'Is it?' },
      { role: 'assistant', content: '   ' },
    ],
  });
  const bad = await validate(dir, {
    training: [training],
    heldOut: [await heldOut('bad.jsonl', [...questions, ends])],
  });
  assert.equal(bad.report.verdict, 'refused', 'one of four, though a tenth of the training lines might be bad');
  assert.deepEqual(
    errorsOf(bad).map(({ code, data, line, param }) => [code, data, line, param]),
    [['invalid_value', 'held_out', 4, 'messages[1]']],
  );
  assert.deepEqual(bad.leftOut, []);
  const empty = await validate(dir, { training: [training], heldOut: [await heldOut('empty.jsonl', ['nonsense'])] });
  assert.equal(errorsOf(empty).find(({ line }) => line === null)?.param, 'gate.held_out_file');

  // Options that hold no answer make every model wrong: refused; where they hold some, the others' lines are named.
  const asked = async (...options: string[][]) =>
    await validate(dir, { training: [training], heldOut: [{ ...(await heldOut('held.jsonl', questions)), options }] });
  const none = await asked(['four', 'another'], ['a', 'b']);
  assert.equal(none.report.verdict, 'refused');
  const [fault] = errorsOf(none);
  assert.deepEqual(
    [fault?.code, fault?.data, fault?.line, fault?.param],
    ['invalid_value', 'held_out', null, 'gate.options'],
  );
  assert.match(fault?.message ?? '', /received "a", "b", which hold none of them: line 1 has "Yes, there is\."/);
  const some = await asked(['four', 'another']);
  assert.equal(some.report.verdict, 'accepted');
  assert.deepEqual(
    some.report.problems
      .filter(({ code }) => code === 'answer_not_among_options')
      .map(({ line, severity }) => [line, severity]),
    [[1, 'warning']],
  );
  assert.equal(
    (await asked(['Yes, there is', 'FOUR', '“another”'])).report.problem_counts.answer_not_among_options,
    undefined,
  );
});

test('odd pictures are warnings with their place, told once', async (t) => {
  const dir = await folder(t);
  const photo = sharp(await patternPng(3, 120, 90));
  const url = (bytes: Buffer, kind: string): string => `data:image/${kind};base64,${bytes.toString('base64')}`;
  const wide = { create: { width: 700, height: 30, channels: 3, background: '#123456' } } as const;
  const odd: readonly (readonly [string, string])[] = [
    [
      'image_small',
      url(
        await sharp(await patternPng(4, 12, 60))
          .png()
          .toBuffer(),
        'png',
      ),
    ],
    [
      'image_elongated',
      url(
        await sharp(await patternPng(5, 640, 20))
          .png()
          .toBuffer(),
        'png',
      ),
    ],
    ['image_uniform', url(await sharp(wide).png().toBuffer(), 'png')],
    ['image_cmyk', url(await photo.clone().toColourspace('cmyk').jpeg().toBuffer(), 'jpeg')],
    ['image_16_bit', url(await photo.clone().toColourspace('rgb16').png().toBuffer(), 'png')],
    ['image_transparent', url(await photo.clone().ensureAlpha(0.5).png().toBuffer(), 'png')],
    ['image_animated', url(await animation(), 'gif')],
    ['image_oversized', url(await photo.clone().resize(1600, 1200).jpeg().toBuffer(), 'jpeg')],
  ];
  const lines = odd.map(([, picture], i) => chatLine([picture, picture], `what is in picture ${i}`, `thing ${i}`));
  const { report } = await validate(dir, { training: [await fileOf(join(dir, 'odd.jsonl'), lines)] });
  for (const [i, [code]] of odd.entries()) {
    const told = report.problems.filter((problem) => problem.code === code);
    const places = told.map(({ line, message_index, part_index }) => [line, message_index, part_index]);
    assert.ok(
      places.some((place) => place.join() === [i + 1, 0, 0].join()),
      `${code}: ${JSON.stringify(report.problems)}`,
    );
    assert.equal(new Set(places.map(String)).size, places.length, `${code} is told once a picture`);
  }
  assert.equal(report.training[0]?.usable, odd.length);
});

async function animation(): Promise<Buffer> {
  const frames = await Promise.all([1, 2].map(async (seed) => (await patternPng(seed, 32, 32)) as Buffer));
  return await sharp(frames, { join: { animated: true } })
    .gif()
    .toBuffer();
}

for (const family of FAMILIES)
  test(`lengths are those that training lays out, where slots depend on pictures too: ${family}`, async (t) => {
    const dir = await folder(t);
    const { baseDir, trainingFile } = await writeTinyJob(dir, 6, family, true);
    const data = dataAt(trainingFile, 1, 'e'.repeat(64));
    const { report } = await validate(dir, { baseDir, training: [data] });
    assert.deepEqual(errorsOf({ report } as Validated), []);
    const base = loadBaseModel(baseDir);
    const store = await openExamples(data, 0, {
      workDir: join(dir, 'training'),
      leftOut: [],
      fetchImage: undefined,
      signal: undefined,
    });
    const samples = new SampleMaker(base, (reference) => store.readImage(reference));
    const { tokens } = await measureExamples(store, samples, undefined);
    await store.close();
    const sorted = [...tokens].sort((a, b) => a - b);
    const [summary] = report.training;
    assert.deepEqual(
      [summary?.tokens.total, summary?.tokens.min, summary?.tokens.max],
      [sorted.reduce((a, b) => a + b, 0), sorted[0], sorted.at(-1)],
    );
    assert.ok(new Set(sorted).size > 2, 'lengths differ');
  });

test('what the model cannot do is refused before anything is trained', async (t) => {
  const dir = await folder(t);
  const training = await fileOf(join(dir, 'train.jsonl'), [chatLine([], 'is it so', 'yes')]);
  const stages: StageDraft[] = [{ ...LORA, part_rates: { decoder: 0.5 } }];
  const { report } = await validate(dir, { training: [training], stages });
  assert.deepEqual(
    report.problems.map(({ code, line }) => [code, line]),
    [['unsupported_parameter', null]],
  );
  assert.equal(report.verdict, 'refused');
});

test('a stage whose max_tokens leaves out every example is refused, with the length that would do', async (t) => {
  const dir = await folder(t);
  const training = await fileOf(join(dir, 'train.jsonl'), [chatLine([], 'is it so', 'yes')]);
  const { report } = await validate(dir, { training: [training], stages: [{ ...LORA, max_tokens: 3 }] });
  const told = report.problems.find(({ code }) => code === 'no_usable_examples');
  assert.deepEqual([report.verdict, told?.line], ['refused', null]);
  const shortest = report.training[0]?.tokens.min ?? 0;
  assert.match(told?.message ?? '', new RegExp(`^stages\\[0\\]\\.max_tokens: expected at least ${shortest},`));
  const enough = await validate(dir, { training: [training], stages: [{ ...LORA, max_tokens: shortest }] });
  assert.equal(enough.report.verdict, 'accepted');
});

test('100 real conversations are clean, and a corrupted copy has exactly its corruptions', {
  skip: existsSync(CHAT) ? false : 'no ../shared/data/mantis-chat',
}, async (t) => {
  const dir = await folder(t);
  // The bundled tokenizer spells most words of real text; all it takes here is a context that holds them.
  const baseDir = join(dir, 'base');
  await cp(NANO, baseDir, { recursive: true });
  const config = JSON.parse(await readFile(join(baseDir, 'config.json'), 'utf8')) as { text_config: object };
  const text_config = { ...config.text_config, max_position_embeddings: 8192 };
  await writeFile(join(baseDir, 'config.json'), JSON.stringify({ ...config, text_config }));
  const imageRoot = () => dirname(CHAT);
  const json = await readFile(CHAT);
  const clean = await validate(dir, { baseDir, training: [dataAt(CHAT, json.length, sha256Hex(json))] }, { imageRoot });
  assert.deepEqual(errorsOf(clean), []);
  const [summary] = clean.report.training;
  assert.deepEqual([summary?.examples, summary?.usable], [100, 100]);
  assert.deepEqual(clean.report.duplicates, { exact: 0, near: 0 });

  type Row = { images: string[]; conversation: { role: string; content: string }[] };
  const rows = (JSON.parse(json.toString()) as Row[]).slice(0, 50);
  rows[9]!.images[0] = 'train_images/no/such.jpg';
  rows[19]!.images.pop();
  rows[29]!.conversation[1]!.role = 'user';
  rows[39]!.conversation.pop();
  rows[49] = structuredClone(rows[48]!);
  const path = join(dir, 'corrupted.json');
  await writeFile(path, JSON.stringify(rows));
  const corrupted = await validate(dir, { baseDir, training: [dataAt(path, 1, 'c'.repeat(64))] }, { imageRoot });
  assert.deepEqual([...new Set(errorsOf(corrupted).map(({ line }) => line))], [10, 20, 30, 40]);
  assert.equal(errorsOf(corrupted)[0]?.code, 'image_file_not_found');
  assert.deepEqual(corrupted.report.duplicates, { exact: 1, near: 0 });
});
