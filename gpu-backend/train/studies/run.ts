import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256Hex } from '../../io/digest.ts';
import { type Bench, openBench, readJson, type StudyOptions, trainOne, writeJson } from './bench.ts';
import type { Item, Questions } from './dialogues.ts';
import { formName } from './forms.ts';
import type { StudyRecipe } from './recipe.ts';
import { Scorer } from './score.ts';
import { commonStart, withNewProjector } from './start.ts';
import type { Arm, Group, Study, StudyBudget } from './study.ts';
import type { TrainTotals } from './training.ts';

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
