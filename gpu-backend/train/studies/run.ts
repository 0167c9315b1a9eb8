import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256Hex } from '../../io/digest.ts';
import { readSafetensors } from '../../io/safetensors.ts';
import { replaceFile, writeSafetensors } from '../../io/safetensors-write.ts';
import { toFloat32 } from '../../io/tensor.ts';
import type { VlmConfig } from '../../models/config.ts';
import { loadCheckpoint } from '../../models/load.ts';
import { initWeights } from '../../models/presets.ts';
import type { LayoutOptions } from '../../text/layout.ts';
import { bindTemplate, templateByName } from '../../text/templates.ts';
import { parseTokenizer } from '../../text/tokenizer.ts';
import type { ParameterState } from '../state.ts';
import { type Item, Questions } from './dialogues.ts';
import { Encoder, formName, type MergePictures } from './forms.ts';
import { STUDY_RECIPE, type StudyRecipe, studyConfig } from './recipe.ts';
import { Scorer } from './score.ts';
import { type Arm, type Group, START_MIX, START_STEP, type Study, type StudyBudget } from './study.ts';
import { type StepSize, type TrainTotals, trainRun } from './training.ts';

export interface StudyOptions {
  readonly study: Study;
  /** Folder that studies share: common starts are made once. */
  readonly out: string;
  /** Model whose vision tower, vocabulary and chat template all arms start from. */
  readonly modelDir: string;
  readonly budget: StudyBudget;
  /** Training data of an arm, one run each; below 2^32. */
  readonly seeds: readonly number[];
  readonly threads: number;
  readonly merge: MergePictures;
  readonly recipe?: StudyRecipe;
  readonly checkpointS?: number;
  /** Aborting ends the run with a checkpoint; the same call goes on from it. */
  readonly signal?: AbortSignal;
  /** @param what the run under way, e.g. `merged, seed 1` */
  readonly onStep?: (what: string, step: number, totalSteps: number, loss: number) => void;
  /** Told of each arm when its training is complete, before it is asked. */
  readonly onTrained?: (start: ReadonlyMap<string, Float32Array>, state: ParameterState) => void;
  readonly onMessage?: (message: string) => void;
}

/** What one run of an arm gave; written when it is complete. */
export interface ArmResult {
  readonly arm: string;
  readonly seed: number;
  readonly totals: TrainTotals;
  /** Row of the table → group → item → whether it was answered rightly. */
  readonly answers: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, boolean>>>>>>;
}

export interface StudyResult {
  readonly study: Study;
  readonly budget: StudyBudget;
  readonly recipe: StudyRecipe;
  /** SHA-256 over the start, what the arms are trained on, and what they are asked. */
  readonly digest: string;
  readonly start: TrainTotals;
  /** Arm by arm, seed by seed. */
  readonly arms: readonly ArmResult[];
}

/** What all runs of a study share. */
interface Bench {
  readonly options: StudyOptions;
  readonly recipe: StudyRecipe;
  readonly config: VlmConfig;
  readonly encoder: Encoder;
  readonly questions: Questions;
}

/**
 * Runs a study, or goes on where it stopped: arms that are done are read, one under way goes on from its checkpoint.
 * @returns undefined when it was aborted
 * @throws Error when the folder holds the study with another budget or start, naming it
 */
export async function runStudy(options: StudyOptions): Promise<StudyResult | undefined> {
  const { study, budget, seeds } = options;
  const bench = await openBench(options);
  const start = await commonStart(bench);
  if (start === undefined) return undefined;
  const folder = join(options.out, study.id);
  const items = new Map(study.groups.map((group) => [group.id, itemsOf(bench.questions, group, budget.items)]));
  const digest = sha256Hex(
    JSON.stringify({
      start: start.digest,
      newProjector: study.start === 'new projector',
      arms: study.arms.map((arm) => armSettings(bench, arm)),
      rows: study.rows.map(({ id, arm, form }) => ({ id, arm, form })),
      items: [...items],
    }),
  );
  await openFolder(folder, { study: study.id, budget, recipe: bench.recipe, digest });
  const weights = study.start === 'captions' ? start.weights : withNewProjector(start.weights, bench);
  const arms: ArmResult[] = [];
  for (const seed of seeds) {
    for (const arm of study.arms) {
      const result = await armResult(bench, { folder, arm, seed, weights, items });
      if (result === undefined) return undefined;
      arms.push(result);
    }
  }
  return { study, budget, recipe: bench.recipe, digest, start: start.totals, arms };
}

/** So many dialogues of each part stand for what the generator makes: arms of a folder were trained by one generator. */
const DIGESTED_DIALOGUES = 16;

/** What decides an arm's training, as data. */
function armSettings({ options: { study, budget }, questions }: Bench, arm: Arm): unknown {
  const parts = arm.parts(budget.steps);
  const dialogues = parts.map(({ mix }) =>
    Array.from({ length: DIGESTED_DIALOGUES }, (_, i) => questions.dialogue(ARM_SEEDS, i, mix)),
  );
  return { id: arm.id, parts, dialogues, pool: arm.pool?.(budget.steps), stepSize: study.stepSize };
}

async function openBench(options: StudyOptions): Promise<Bench> {
  const { modelDir, recipe = STUDY_RECIPE } = options;
  const json = async (name: string): Promise<unknown> => JSON.parse(await readFile(join(modelDir, name), 'utf8'));
  const tokenizer = parseTokenizer(await json('tokenizer.json'));
  const { mantis_template: name } = (await json('tokenizer_config.json')) as { mantis_template?: unknown };
  if (typeof name !== 'string')
    throw new Error(
      `${modelDir}: expected a model made by mantis train nano (mantis_template in tokenizer_config.json)`,
    );
  const config = studyConfig(recipe, loadCheckpoint(modelDir).config, tokenizer);
  const layout: LayoutOptions = {
    tokenizer,
    template: bindTemplate(templateByName(name), tokenizer),
    tokensPerImage: config.tokensPerImage,
    imageTokenId: config.imageToken,
  };
  const encoder = new Encoder(layout, config.vision.imageSize, options.merge);
  return { options, recipe, config, encoder, questions: new Questions() };
}

interface CommonStart {
  readonly digest: string;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly totals: TrainTotals;
}

/** The weights all arms begin with: the model's tower and a decoder that was taught single pictures; trained once a folder. */
async function commonStart(bench: Bench): Promise<CommonStart | undefined> {
  const { options, recipe, config } = bench;
  const { startSteps } = options.budget;
  const { weights: model } = loadCheckpoint(options.modelDir);
  const tower = [...model].filter(([name]) => name.startsWith('vision_tower.'));
  const weights = new Map<string, Float32Array>();
  for (const [name, { data }] of initWeights(config, recipe.seed)) weights.set(name, data as Float32Array);
  for (const [name, { data }] of tower) if (weights.has(name)) weights.set(name, data as Float32Array);
  const towerBytes = tower.map(([name, { data }]) => [name, sha256Hex(bytesOf(data as Float32Array))]);
  const digest = sha256Hex(
    JSON.stringify({ towerBytes, recipe, startSteps, mix: START_MIX, step: START_STEP, config }),
  );
  const out = join(options.out, 'starts', digest.slice(0, 16));
  await mkdir(out, { recursive: true });
  const path = join(out, 'weights.safetensors');
  const kept = await readJson<TrainTotals>(join(out, 'totals.json'));
  if (kept !== undefined) {
    const stored = await readSafetensors(path);
    return { digest, totals: kept, weights: new Map([...stored].map(([name, tensor]) => [name, toFloat32(tensor)])) };
  }
  const form = { pictures: 'sequence', denotation: 'numbered' } as const;
  const parts = [{ steps: startSteps, mix: START_MIX, form, moves: 'all' as const }];
  const trained = await trainOne(bench, {
    out,
    start: weights,
    parts,
    stepSize: START_STEP,
    seed: recipe.seed,
    what: 'common start',
  });
  if (trained === undefined) return undefined;
  const { state, totals } = trained;
  await writeSafetensors(
    path,
    state.parameters.map(({ name, shape, value }) => [name, { dtype: 'f32', shape, data: value }]),
  );
  await writeJson(join(out, 'totals.json'), totals);
  await rm(join(out, 'checkpoints'), { recursive: true, force: true });
  return {
    digest,
    totals,
    weights: new Map(state.parameters.map(({ name, value }) => [name, Float32Array.from(value)])),
  };
}

const bytesOf = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** Projector weights as before any training, of a seed of their own. */
function withNewProjector(weights: CommonStart['weights'], { config, recipe }: Bench): Map<string, Float32Array> {
  const fresh = initWeights(config, recipe.seed + 1);
  return new Map(
    [...weights].map(([name, data]) => [
      name,
      name.startsWith('multi_modal_projector.') ? (fresh.get(name)?.data as Float32Array) : data,
    ]),
  );
}

interface OneRun {
  readonly out: string;
  readonly start: ReadonlyMap<string, Float32Array>;
  readonly parts: ReturnType<Arm['parts']>;
  readonly pool?: number | undefined;
  readonly stepSize: StepSize;
  readonly seed: number;
  readonly what: string;
}

function trainOne({ options, recipe, config, encoder, questions }: Bench, run: OneRun): ReturnType<typeof trainRun> {
  const { out, start, parts, stepSize, pool, seed, what } = run;
  return trainRun({
    out,
    config,
    recipe,
    encoder,
    questions,
    start,
    parts,
    stepSize,
    ...(pool === undefined ? {} : { pool }),
    seed,
    threads: options.threads,
    padId: config.text.padToken ?? 0,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    ...(options.checkpointS === undefined ? {} : { checkpointS: options.checkpointS }),
    onStep: (step, totalSteps, loss) => options.onStep?.(what, step, totalSteps, loss),
  });
}

interface ArmRun {
  readonly folder: string;
  readonly arm: Arm;
  readonly seed: number;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly items: ReadonlyMap<string, readonly Item[]>;
}

async function armResult(bench: Bench, { folder, arm, seed, weights, items }: ArmRun): Promise<ArmResult | undefined> {
  const { study, budget, threads } = bench.options;
  const what = `${arm.title}, seed ${seed}`;
  const path = join(folder, `${arm.id}-seed-${seed}.json`);
  const kept = await readJson<ArmResult>(path);
  if (kept !== undefined) return kept;
  const out = join(folder, `${arm.id}-seed-${seed}`);
  const parts = arm.parts(budget.steps);
  const pool = arm.pool?.(budget.steps);
  // Data of the arms begin behind those of the common start.
  const trained = await trainOne(bench, {
    out,
    start: weights,
    parts,
    stepSize: study.stepSize,
    pool,
    seed: ARM_SEEDS + seed,
    what,
  });
  if (trained === undefined) return undefined;
  bench.options.onTrained?.(weights, trained.state);
  const scorer = await Scorer.create(bench.config, bench.encoder, threads);
  const answers: Record<string, Record<string, Record<string, boolean>>> = {};
  for (const row of study.rows.filter((r) => r.arm === arm.id)) {
    const byGroup: Record<string, Record<string, boolean>> = {};
    for (const [group, questions] of items)
      byGroup[group] = Object.fromEntries(await scorer.score(trained.state, questions, row.form));
    answers[row.id] = byGroup;
    const all = Object.values(byGroup).flatMap((group) => Object.values(group));
    bench.options.onMessage?.(
      `${what}, asked ${formName(row.form)}: ${((100 * all.filter(Boolean).length) / all.length).toFixed(1)} % of ${all.length}`,
    );
  }
  await scorer.release();
  const result: ArmResult = { arm: arm.id, seed, totals: trained.totals, answers };
  await writeJson(path, result);
  await rm(out, { recursive: true, force: true });
  return result;
}

const ARM_SEEDS = 1_000_000;

function itemsOf(questions: Questions, { topics, keeps = () => true }: Group, count: number): Item[] {
  return topics.flatMap((topic) => questions.heldOut(topic, count)).filter(keeps);
}

/** Written beside the arms; what a call that goes on must agree with. */
interface StudyFile {
  readonly study: string;
  readonly budget: StudyBudget;
  readonly recipe: StudyRecipe;
  readonly digest: string;
}

/** @throws Error when the folder was begun with other settings */
async function openFolder(folder: string, settings: StudyFile): Promise<void> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, 'study.json');
  const kept = await readJson<StudyFile>(path);
  if (kept === undefined) return await writeJson(path, settings);
  if (kept.digest !== settings.digest)
    throw new Error(
      `${folder} holds this study with other settings (${JSON.stringify(kept.budget)}); give the same, another --out, or remove the folder`,
    );
}

async function readJson<T>(path: string): Promise<T | undefined> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  return text === undefined ? undefined : (JSON.parse(text) as T);
}

/** Whole or not at all, whenever the process ends. */
async function writeJson(path: string, value: unknown): Promise<void> {
  await replaceFile(path, (file) => file.writeFile(`${JSON.stringify(value)}\n`));
}
