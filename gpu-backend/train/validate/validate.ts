/**
 * Reads the data of a job once and says everything about it: what is wrong with which line, what is odd, what comes twice, and what training on it would
 * take. Constant memory: of an example and of a picture a few bytes stay, pictures and texts lie on disk.
 */
import { join } from 'node:path';
import type { LeftOut } from '../../../shared/contract/backend.ts';
import type { DataName, DatasetReport, TrainingEstimate } from '../../../shared/contract/datasets.ts';
import { errorMessage } from '../../../shared/contract/facts.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import type { ValidateResult } from '../../../shared/contract/taskResults.ts';
import { decideStages, type Stage } from '../../../shared/contract/training.ts';
import { expectedWeights, readConfig } from '../../models/load.ts';
import { importData } from '../data/import.ts';
import type { FineTuneData } from '../finetune-spec.ts';
import { planStage, StageError } from '../stage-plan.ts';
import { compareExamples } from './compare.ts';
import { Contents, ExampleCheck } from './example-check.ts';
import { ABOUT_ALL, Findings } from './findings.ts';
import type { ValidateHooks, ValidateInput } from './input.ts';
import { OptionsCheck } from './options-check.ts';
import { summarise } from './summary.ts';

/** As the edge gets it, and the file of all problems, JSON Lines, where the report lists only the first. */
export interface Validated extends Pick<ValidateResult, 'report' | 'leftOut' | 'trainingExamples'> {
  readonly problemsPath: string | null;
}

/** @throws the signal's reason; defects, and whatever hooks throw */
export async function validateData(input: ValidateInput, hooks: ValidateHooks = {}): Promise<Validated> {
  const findings = await Findings.create(input, hooks);
  try {
    const contents = new Contents();
    for (const [i, data] of findings.data.entries()) await readList(findings, contents, data, findings.nameOf(i));
    await compareExamples(findings);
    return await conclude(findings);
  } finally {
    await findings.close();
  }
}

async function readList(findings: Findings, contents: Contents, data: FineTuneData, name: DataName): Promise<void> {
  const { input, hooks, lists } = findings;
  const number = lists.length;
  const first = findings.table.length;
  const { options = [], param = '' } = name === 'held_out' ? (findings.heldOutOf(number) ?? {}) : {};
  const asked = options.length === 0 ? null : new OptionsCheck(options);
  const check = new ExampleCheck(findings, contents, data, name, number, asked);
  const sizes = findings.data.map(({ spec }) => spec.files.reduce((sum, { file }) => sum + file.bytes, 0));
  const [before, total] = [sizes.slice(0, number), sizes].map((some) => some.reduce((sum, bytes) => sum + bytes, 0));
  const { imageRoot } = hooks;
  const { store, files } = await importData(data.spec, data.paths, join(input.workDir, `list-${number}`), {
    data: name,
    imageDir: input.imageDir ?? join(input.workDir, 'images'),
    onProblem: (problem, file) => findings.note(problem, file),
    onExample: (example, reader) => check.read(example, reader),
    onProgress: (done) => findings.progress('reading', (before ?? 0) + done, total ?? 0),
    ...(number === 0 && input.groups !== undefined ? { groups: input.groups } : {}),
    ...(hooks.fetchImage === undefined ? {} : { fetchImage: hooks.fetchImage }),
    ...(imageRoot === undefined ? {} : { imageRoot: (file: number) => imageRoot(name, file) }),
    signal: hooks.signal,
  });
  lists.push({ data, store, files, first });
  const fault = asked?.fault() ?? null;
  if (fault !== null) {
    const field = param.replace(/held_out_file$/, 'options');
    const problem = { severity: 'error', code: 'invalid_value', message: errorMessage(field, fault) } as const;
    findings.problems.add({ ...ABOUT_ALL, ...problem, data: name, param: field });
    findings.isUnanswerable = true;
  }
  if (files.every(({ usable }) => usable === 0))
    findings.problems.add({
      ...ABOUT_ALL,
      severity: 'error',
      code: 'no_usable_examples',
      message: errorMessage('data', { expected: 'at least 1 example without errors', received: 'none' }),
      data: name,
      param: findings.paramOf(number),
    });
}

async function conclude(findings: Findings): Promise<Validated> {
  const { input, table, problems, counts } = findings;
  const lists = findings.lists.slice(0, input.training.length);
  const training = lists.map((list) => summarise(list, table));
  const others = findings.lists.slice(input.training.length).map((list) => summarise(list, table));
  const validation = input.validation === undefined ? null : (others.shift() ?? null);
  const heldOut = others;
  const trainingExamples = lists.map(({ store }) => store.length);
  const stages = decideStages(input.stages, trainingExamples);
  warnOfOverlong(findings, stages);
  const all = [...training, ...(validation === null ? [] : [validation])];
  const badShare = Math.max(0, ...all.map(({ bad, examples }) => (examples === 0 ? 0 : bad / examples)));
  const isEmpty = [...all, ...heldOut].some(({ usable }) => usable === 0);
  const isHeldOutWrong = heldOut.some(({ bad }) => bad > 0);
  const canRun = planProblems(findings, stages) && !isAnyStarved(findings, stages);
  const verdict =
    isEmpty || isHeldOutWrong || findings.isUnanswerable || !canRun || badShare > input.maxBadShare
      ? 'refused'
      : 'accepted';
  findings.progress('estimating', 0, stages.length);
  const estimate = verdict === 'refused' ? null : await estimateOf(findings, stages);
  await problems.close();
  const leftOut = findings.leftOut();
  const report: DatasetReport = {
    object: 'dataset.report',
    verdict,
    bad_share: badShare,
    max_bad_share: input.maxBadShare,
    training,
    validation,
    ...(heldOut.length === 0 ? {} : { held_out: heldOut }),
    problem_counts: problems.counts(),
    problems: problems.listed(),
    problems_file: null,
    left_out: listedLeftOut(leftOut),
    duplicates: { exact: counts.exact, near: counts.near },
    leakage: {
      images: counts.leakedImages,
      examples: counts.leakedExamples,
      ...(heldOut.length === 0
        ? {}
        : { held_out_images: counts.heldOutImages, held_out_examples: counts.heldOutExamples }),
    },
    estimate,
  };
  return { report, leftOut, trainingExamples, problemsPath: problems.isCut ? problems.path : null };
}

async function estimateOf(findings: Findings, stages: readonly Stage[]): Promise<TrainingEstimate | null> {
  const estimate = (await findings.hooks.estimate?.(findings.lists, stages, findings.table)) ?? null;
  if (typeof estimate !== 'string') return estimate;
  findings.tellAll('warning', 'estimate_unavailable', `No estimate: ${estimate}.`);
  return null;
}

/** What the model cannot do is refused before anything is trained. */
function planProblems(findings: Findings, stages: readonly Stage[]): boolean {
  const { input } = findings;
  const config = readConfig(input.baseDir);
  const names = [...expectedWeights(config).keys()];
  let isGood = true;
  for (const [i, stage] of stages.entries()) {
    try {
      planStage(config, names, stage, i, input.validation !== undefined);
    } catch (error) {
      if (!(error instanceof StageError)) throw error;
      isGood = false;
      findings.tellAll('error', 'unsupported_parameter', `${error.message}.`);
    }
  }
  return isGood;
}

/** Stages with a bound of their own leave out what is longer; said here, with the lengths. */
function warnOfOverlong(findings: Findings, stages: readonly Stage[]): void {
  const { input, table, front } = findings;
  for (const [data, list] of findings.lists.slice(0, input.training.length).entries()) {
    const bounds = stages.filter((stage) => stage.data === data).map(({ max_tokens }) => max_tokens ?? Infinity);
    const bound = Math.min(Infinity, ...bounds);
    if (bound >= front.contextTokens) continue;
    for (let record = 0; record < list.store.records; record++) {
      const tokens = table.tokens(list.first + record);
      if (tokens <= bound) continue;
      const message = `The example takes ${tokens} tokens, max_tokens is ${bound}: the stage leaves it out.`;
      findings.tell(list.first + record, 'over_max_tokens', message);
    }
  }
}

/** A stage whose bound leaves out every example of its list has nothing to train on. */
function isAnyStarved(findings: Findings, stages: readonly Stage[]): boolean {
  const { lists, table } = findings;
  let isStarved = false;
  for (const [i, { data, max_tokens: bound }] of stages.entries()) {
    const list = lists[data];
    if (bound === undefined || list === undefined || list.store.length === 0) continue;
    let shortest = Infinity;
    for (let entry = 0; entry < list.store.length; entry++)
      shortest = Math.min(shortest, table.tokens(list.first + list.store.recordOf(entry)));
    if (shortest <= bound) continue;
    isStarved = true;
    const message = `stages[${i}].max_tokens: expected at least ${shortest}, the tokens of the shortest example, received ${bound}: the stage leaves out all examples.`;
    findings.tellAll('error', 'no_usable_examples', message);
  }
  return isStarved;
}

function listedLeftOut(leftOut: LeftOut): DatasetReport['left_out'] {
  const names = new Set(leftOut.map(({ data }) => data));
  return [...names].map((data) => {
    const lines = leftOut.filter((entry) => entry.data === data).flatMap((entry) => entry.lines);
    return { data, lines: lines.slice(0, LIMITS.dataset.maxListedLines), total: lines.length };
  });
}
