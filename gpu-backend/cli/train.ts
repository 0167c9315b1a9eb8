import { existsSync, readFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { DEVICE_CHOICES, type DeviceChoice, type Placement } from '../runtime/device.ts';
import { describeDevice, openDevice } from '../runtime/device-open.ts';
import { decodePng } from '../train/nano/decode-png.ts';
import { placeModel } from '../train/nano/place-stage.ts';
import type { PlanEntry } from '../train/nano/plan.ts';
import { loadRealData } from '../train/nano/real.ts';
import { NANO_CONTINUED, NANO_RECIPE } from '../train/nano/recipe.ts';
import { type NanoTrainOptions, trainNano } from '../train/nano/train.ts';
import { deviceReports } from './devices.ts';
import { CliError } from './error.ts';
import { wholeNumber, wholeWithin } from './parse.ts';
import { ProgressBar } from './progress.ts';

interface NanoFlags {
  readonly out: string;
  readonly nlvr?: string;
  readonly from?: string;
  readonly steps: number;
  readonly plan?: string;
  readonly finishBy?: number;
  readonly seed: number;
  readonly threads: number;
  readonly device: DeviceChoice;
  readonly dialogues?: number;
}

/** `mantis train`: models from random weights, and what comes between two runs. */
export function trainCommand(): Command {
  const nano = new Command('nano')
    .description(
      'the nano model: pictures and sentences are made on the fly; the same command goes on where it stopped',
    )
    .requiredOption('--out <folder>', 'folder of the run; the finished model is in model/ under it')
    .option('--nlvr <folder>', 'NLVR data (train, train-images, dev); without it only generated pictures and sentences')
    .option('--from <folder>', 'model folder (model/ of an earlier run) whose weights this run starts from')
    .option('--steps <n>', 'optimizer steps', wholeNumber, 7900)
    .option(
      '--plan <file>',
      'run.json of an earlier run whose length and recipe changes are to be repeated step by step',
    )
    .option('--finish-by <HH:MM[:SS]>', 'plan the steps so that the run ends at this time of day', timeOfDay)
    .option('--seed <n>', 'another start and other data', wholeNumber, 1)
    .option('--threads <n>', 'threads that compute gradients, or make data for a device', wholeWithin(1, 256), 2)
    .addOption(
      new Option('--device <name>', 'what computes gradients (mantis devices)').choices(DEVICE_CHOICES).default('cpu'),
    )
    .option('--dialogues <n>', "dialogues of a step, in place of the recipe's 32", wholeWithin(1, 4096))
    .action(runNano);
  const places = new Command('places')
    .description(
      'the vision tower of a trained nano learns to tell where in a picture its features are, and the rest stays as it is',
    )
    .requiredOption('--from <folder>', 'model folder')
    .requiredOption('--out <folder>', 'model folder to be made')
    .option('--nlvr <folder>', 'NLVR data (train-images); without it only generated pictures')
    .option('--steps <n>', 'optimizer steps', wholeNumber, 600)
    .option('--seed <n>', 'other codes and other pictures', wholeNumber, 1)
    .option('--threads <n>', 'threads of the kernels', wholeNumber, 2)
    .action(runPlaces);
  return new Command('train')
    .description('train a model from random weights, or its parts')
    .addCommand(nano)
    .addCommand(places);
}

/** The next time the clock shows HH:MM or HH:MM:SS, Unix ms. */
function timeOfDay(value: string): number {
  const match = /^([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?$/.exec(value);
  if (match === null) throw new InvalidArgumentError('Expected a time of day such as 17:30 or 17:30:15.');
  const date = new Date();
  date.setHours(Number(match[1]), Number(match[2]), Number(match[3] ?? 0), 0);
  if (date.getTime() <= Date.now()) date.setDate(date.getDate() + 1);
  return date.getTime();
}

function readPlan(path: string): readonly PlanEntry[] {
  try {
    const { plan } = JSON.parse(readFileSync(path, 'utf8')) as { plan?: readonly PlanEntry[] };
    if (Array.isArray(plan)) return plan;
  } catch (cause) {
    throw new CliError(`${path}: ${cause instanceof Error ? cause.message : String(cause)}`, 2);
  }
  throw new CliError(`${path}: expected a run.json with a plan`, 2);
}

interface PlacesFlags extends Pick<NanoFlags, 'out' | 'nlvr' | 'steps' | 'seed' | 'threads'> {
  readonly from: string;
}

async function runPlaces({ from, out, nlvr, steps, seed, threads }: PlacesFlags): Promise<void> {
  for (const [option, folder] of Object.entries({ from, nlvr }))
    if (folder !== undefined && !existsSync(folder)) throw new CliError(`--${option}: there is no folder ${folder}`, 2);
  if (existsSync(out)) throw new CliError(`--out: ${out} exists; name a folder to be made`, 2);
  const bar = new ProgressBar('train places');
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort()).once('SIGTERM', () => stop.abort());
  let missed = Number.NaN;
  await placeModel(from, out, {
    seed,
    steps,
    threads,
    signal: stop.signal,
    ...(nlvr === undefined ? {} : { real: await loadRealData(nlvr, decodePng) }),
    onStep: (step, error) => {
      missed = error;
      bar.update(step, steps, `misses ${(100 * error).toFixed(2)} % of the variance`);
    },
  });
  bar.end();
  if (stop.signal.aborted) throw new CliError('stopped; nothing was written');
  process.stdout.write(`${out}: features miss ${(100 * missed).toFixed(2)} % of their variance\n`);
}

/** The device asked for, chosen and proven as a backend does; undefined for the processor. */
async function placementFor(choice: DeviceChoice, say: (line: string) => void): Promise<Placement | undefined> {
  if (choice === 'cpu') return undefined;
  try {
    const opened = await openDevice(choice, deviceReports());
    for (const line of describeDevice(opened)) say(line);
    return opened.placement;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new CliError(message.replace(/^MANTIS_DEVICE=/, '--device '));
  }
}

async function runNano(flags: NanoFlags): Promise<void> {
  if (flags.nlvr !== undefined && !existsSync(flags.nlvr))
    throw new CliError(`--nlvr: there is no folder ${flags.nlvr}`, 2);
  if (flags.from !== undefined && !existsSync(flags.from))
    throw new CliError(`--from: there is no folder ${flags.from}`, 2);
  const bar = new ProgressBar('train nano');
  const stop = new AbortController();
  // The first signal saves and stops; a second one ends the process at once.
  const onSignal = (): void => stop.abort();
  process.once('SIGINT', onSignal).once('SIGTERM', onSignal);
  const placement = await placementFor(flags.device, (line) => bar.log(line));
  const recipe = flags.from === undefined ? NANO_RECIPE : NANO_CONTINUED;
  const options: NanoTrainOptions = {
    out: flags.out,
    ...(placement === undefined ? {} : { placement }),
    ...(flags.dialogues === undefined ? {} : { recipe: { ...recipe, dialogues: flags.dialogues } }),
    steps: flags.plan === undefined ? flags.steps : readPlan(flags.plan),
    seed: flags.seed,
    threads: flags.threads,
    signal: stop.signal,
    ...(flags.nlvr === undefined ? {} : { nlvrDir: flags.nlvr }),
    ...(flags.from === undefined ? {} : { from: flags.from }),
    ...(flags.finishBy === undefined ? {} : { finishBy: flags.finishBy }),
    onMessage: (message) => bar.log(message),
    onProgress: ({ metrics, totalSteps, tokensPerSecond }) =>
      bar.update(
        metrics.step,
        totalSteps,
        `loss ${metrics.loss.toFixed(3)} right ${(100 * metrics.tokenAccuracy).toFixed(1)} % ${tokensPerSecond.toFixed(0)} tokens/s`,
      ),
  };
  const { outcome, progress } = await trainNano(options);
  bar.end();
  if (outcome === 'diverged') throw new CliError('the run diverged: ten steps in a row had no finite gradient');
  const state = outcome === 'complete' ? 'complete' : 'stopped; the same command goes on';
  process.stdout.write(`step ${progress.step}: ${state}; model in ${flags.out}/model\n`);
}
