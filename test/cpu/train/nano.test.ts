import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { loadCheckpoint } from '../../../gpu-backend/models/load.ts';
import { bindTemplate, templateByName } from '../../../gpu-backend/text/templates.ts';
import { parseTokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { MuonState } from '../../../gpu-backend/train/muon.ts';
import { vocabularyTexts } from '../../../gpu-backend/train/nano/corpus.ts';
import { nanoCurriculum } from '../../../gpu-backend/train/nano/curriculum.ts';
import { Curve } from '../../../gpu-backend/train/nano/curve.ts';
import { StepPlan } from '../../../gpu-backend/train/nano/plan.ts';
import { NANO_RECIPE } from '../../../gpu-backend/train/nano/recipe.ts';
import { NanoStream } from '../../../gpu-backend/train/nano/samples.ts';
import { type NanoTrainOptions, trainNano } from '../../../gpu-backend/train/nano/train.ts';
import { trainTokenizer } from '../../../gpu-backend/train/nano/vocabulary.ts';
import { ParameterState } from '../../../gpu-backend/train/state.ts';

const recipe = {
  ...NANO_RECIPE,
  vocab: 400,
  visionHidden: 32,
  visionLayers: 1,
  visionHeads: 2,
  visionIntermediate: 48,
  hidden: 32,
  layers: 1,
  heads: 2,
  kvHeads: 2,
  intermediate: 48,
  towerSteps: 2,
  dialogues: 4,
};

test('a nano run that was stopped and started again ends with the same weights', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-nano-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  // A small vocabulary, written beforehand: learning the real one is most of the time of such a short run.
  const stream = new NanoStream({ seed: 9, phases: nanoCurriculum(60) });
  const tokenizer = JSON.stringify(trainTokenizer(vocabularyTexts(stream, 60, []), 400));
  for (const name of ['whole', 'cut']) {
    await mkdir(join(dir, name));
    await writeFile(join(dir, name, 'tokenizer.json'), tokenizer);
  }
  const options: NanoTrainOptions = {
    out: join(dir, 'whole'),
    steps: 6,
    threads: 2,
    recipe,
    curveItems: { perSkill: 2, nlvr: 0 },
  };
  assert.equal((await trainNano(options)).outcome, 'complete');
  const cut = { ...options, out: join(dir, 'cut') };
  const stop = new AbortController();
  const first = await trainNano({
    ...cut,
    signal: stop.signal,
    onProgress: ({ metrics }) => {
      if (metrics.step === 3) stop.abort();
    },
  });
  assert.equal(first.outcome, 'aborted');
  assert.equal(first.progress.step, 3);
  const second = await trainNano(cut);
  assert.deepEqual([second.outcome, second.progress.step], ['complete', 6]);
  const weights = (out: string): Promise<string> => sha256File(join(out, 'model', 'model.safetensors'));
  assert.equal(await weights(cut.out), await weights(options.out));

  const { config } = loadCheckpoint(join(options.out, 'model'));
  assert.equal(config.tokensPerImage, 25);
  const tokenizerConfig = JSON.parse(await readFile(join(options.out, 'model', 'tokenizer_config.json'), 'utf8'));
  assert.equal(tokenizerConfig.mantis_template, 'compact');
  await assert.rejects(trainNano({ ...options, seed: 2 }), /another recipe or seed/);

  // Another run starts from these weights, with Muon: same vocabulary, and the checkpoint it began at is on record.
  const further = {
    ...options,
    out: join(dir, 'further'),
    from: join(options.out, 'model'),
    steps: 1,
    recipe: { ...recipe, optimizer: 'muon' as const },
  };
  assert.equal((await trainNano(further)).outcome, 'complete');
  const run = JSON.parse(await readFile(join(further.out, 'run.json'), 'utf8'));
  assert.equal(run.from, await weights(options.out));
  assert.notEqual(await weights(further.out), run.from);
});

test('Muon moves along the nearest semi-orthogonal matrix, everything else as AdamW does', async () => {
  const specs = [
    { name: 'wide.weight', shape: [4, 9] },
    { name: 'tall.weight', shape: [9, 4] },
    { name: 'embed_tokens.weight', shape: [6, 4] },
    { name: 'norm.weight', shape: [4] },
  ];
  const [muon, adamw] = [await MuonState.create(specs, 1), new ParameterState(specs)];
  const before = new Map(muon.parameters.map((p) => [p.name, p.value.slice()]));
  for (const state of [muon, adamw])
    for (const { grad } of state.parameters)
      grad.forEach((_, i) => {
        grad[i] = Math.sin(12.9898 * (i + 1)) * (1 + (i % 5));
      });
  const rate = 0.1;
  assert.throws(() => muon.update(rate), /not prepared/);
  muon.step = 0;
  await muon.prepare(1);
  assert.deepEqual(
    muon.update(rate, { maxNorm: 1, adamw: { weightDecay: 0 } }),
    adamw.update(rate, { maxNorm: 1, adamw: { weightDecay: 0 } }),
  );
  for (const name of ['embed_tokens.weight', 'norm.weight'])
    assert.deepEqual(muon.get(name).value, adamw.get(name).value);
  for (const name of ['wide.weight', 'tall.weight']) {
    const { value, shape } = muon.get(name);
    const [rows = 0, columns = 0] = shape;
    // RMS 0.2 times the rate if all singular values were one: the squared Frobenius norm is that of four of them.
    const unit = rate * 0.2 * Math.sqrt(Math.max(rows, columns));
    const energy = value.reduce((sum, v, i) => sum + ((v - (before.get(name)?.[i] ?? 0)) / unit) ** 2, 0);
    assert.ok(energy > 4 * 0.7 ** 2 && energy < 4 * 1.2 ** 2, `${name}: ${energy}`);
  }
});

test('a step plan holds for the steps it was made for', () => {
  const plan = new StepPlan([{ fromStep: 1, totalSteps: 100 }]);
  plan.revise(22, 80);
  plan.revise(72, 80);
  plan.revise(90, 85);
  assert.deepEqual(plan.entries, [
    { fromStep: 1, totalSteps: 100 },
    { fromStep: 22, totalSteps: 80 },
    { fromStep: 90, totalSteps: 90 },
  ]);
  assert.deepEqual(
    [1, 21, 22, 89, 90].map((step) => plan.totalAt(step)),
    [100, 100, 80, 80, 90],
  );
});

test('the bundled model has learned the four skills: generated questions it never saw', async () => {
  const dir = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));
  const { config, weights } = loadCheckpoint(dir);
  const tokenizer = parseTokenizer(JSON.parse(await readFile(join(dir, 'tokenizer.json'), 'utf8')));
  const template = bindTemplate(templateByName('compact'), tokenizer);
  const layout = { tokenizer, template, tokensPerImage: config.tokensPerImage, imageTokenId: config.imageToken };
  const curve = await Curve.create({
    config,
    layout,
    decodePng: () => assert.fail(),
    itemsPerSkill: 60,
    nlvrItems: 0,
    threads: 1,
  });
  const state = new ParameterState([...weights].map(([name, { shape }]) => ({ name, shape })));
  for (const p of state.parameters) p.value.set(weights.get(p.name)?.data as Float32Array);
  const scores = await curve.score(state);
  assert.deepEqual(Object.keys(scores).sort(), ['comparison', 'coreference', 'reasoning', 'temporal']);
  // 98.2 % over 250 a skill when they were shipped; 240 questions leave a standard error of a point.
  const mean = Object.values(scores).reduce((sum, score) => sum + score, 0) / 4;
  assert.ok(mean > 0.94, JSON.stringify(scores));
});
