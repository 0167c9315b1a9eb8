import { existsSync, readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Command } from 'commander';
import { readSafetensors } from '../io/safetensors.ts';
import { toFloat32 } from '../io/tensor.ts';
import { verifyCheckpoint } from '../models/verify.ts';
import { type VerifyRow, verifyTokenizer } from '../text/verify-tokenizer.ts';
import { verifyTraining } from '../train/verify-training.ts';
import { verifyImages } from '../vision/verify-images.ts';
import { CliError } from './error.ts';

type Kind = 'checkpoint' | 'images' | 'tokenizer';

interface Outcome {
  readonly folder: string;
  readonly rows: readonly VerifyRow[];
  /** Why nothing could be checked, `null` where rows speak. */
  readonly failure: string | null;
}

/** `mantis verify`: our results against those of a reference, folder by folder. */
export function verifyCommand(): Command {
  return new Command('verify')
    .description('check models, pictures and tokenizer against reference folders')
    .argument('<folders...>', 'reference folders, or folders of them')
    .option('--json', 'end with one line of JSON')
    .option('--no-training', 'leave out the training runs')
    .action(async (folders: string[], options: { readonly json?: boolean; readonly training: boolean }) => {
      const outcomes: Outcome[] = [];
      for (const folder of folders.flatMap(findCases)) {
        const outcome = await verifyFolder(folder, options.training);
        print(outcome);
        outcomes.push(outcome);
      }
      const rows = outcomes.flatMap(({ folder, rows }) => rows.map((row) => ({ folder, ...row })));
      const failed = rows.filter(({ ok }) => !ok);
      const failures = outcomes.flatMap(({ folder, failure }) =>
        failure === null ? [] : [{ folder, message: failure }],
      );
      if (options.json === true)
        process.stdout.write(
          `${JSON.stringify({ ok: failed.length + failures.length === 0, checks: rows.length, failed: failed.length, failures, rows })}\n`,
        );
      if (failed.length + failures.length > 0) process.exitCode = 1;
    });
}

/** The folder itself when it is a case, else the cases directly inside it. @throws CliError when there is none */
function findCases(folder: string): string[] {
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new CliError(`${folder}: expected a folder, there is none`, 2);
  if (kindOf(folder) !== null) return [folder];
  const inside = readdirSync(folder)
    .sort()
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isDirectory() && kindOf(path) !== null);
  if (inside.length === 0)
    throw new CliError(
      `${folder}: expected a reference folder (case.json beside config.json, cases.json beside pictures or tokenizer.json) or a folder of such`,
      2,
    );
  return inside;
}

/** Adapter folders (`…-lora`) are no cases of their own: they belong to the checkpoint beside them. */
function kindOf(folder: string): Kind | null {
  const has = (name: string) => existsSync(join(folder, name));
  if (has('case.json') && has('config.json')) return 'checkpoint';
  if (has('cases.json') && has('tokenizer.json')) return 'tokenizer';
  if (has('cases.json') && has('expected.safetensors')) return 'images';
  return null;
}

async function verifyFolder(folder: string, training: boolean): Promise<Outcome> {
  try {
    return { folder: basename(folder), rows: await rowsOf(folder, training), failure: null };
  } catch (error) {
    return { folder: basename(folder), rows: [], failure: error instanceof Error ? error.message : String(error) };
  }
}

async function rowsOf(folder: string, training: boolean): Promise<readonly VerifyRow[]> {
  switch (kindOf(folder)) {
    case 'checkpoint':
      return [...(await verifyCheckpoint(folder)), ...(training ? await verifyTraining(folder) : [])];
    case 'tokenizer':
      return verifyTokenizer(folder);
    default:
      return await verifyImages(folder, readPixels);
  }
}

function readPixels(path: string) {
  return new Map(
    [...readSafetensors(path)].map(([name, tensor]) => [name, { shape: tensor.shape, values: toFloat32(tensor) }]),
  );
}

/** Failed expectations one by one, the rest as the worst of each kind. */
function print({ folder, rows, failure }: Outcome): void {
  if (failure !== null) {
    process.stderr.write(`${folder}: ${failure}\n`);
    return;
  }
  const kinds = groupRows(rows);
  for (const [expectation, all] of kinds) {
    const bad = all.filter(({ ok }) => !ok);
    const worst = all.reduce((a, b) => (b.error > a.error ? b : a));
    process.stderr.write(
      `${bad.length === 0 ? 'ok  ' : 'FAIL'} ${folder} ${expectation}: ${all.length - bad.length}/${all.length}, worst error ${worst.error.toPrecision(3)} of ${worst.tolerance}\n`,
    );
    for (const { case: name, error, tolerance } of bad)
      process.stderr.write(`     ${name}: error ${error.toPrecision(4)}, tolerance ${tolerance}\n`);
  }
}

function groupRows(rows: readonly VerifyRow[]): Map<string, VerifyRow[]> {
  const groups = new Map<string, VerifyRow[]>();
  for (const row of rows) {
    const group = groups.get(row.expectation);
    if (group === undefined) groups.set(row.expectation, [row]);
    else group.push(row);
  }
  return groups;
}
