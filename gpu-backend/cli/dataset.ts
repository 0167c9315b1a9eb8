import { Command, Option } from 'commander';
import type { DataExample } from '../train/data/example.ts';
import { exportData } from '../train/data/export.ts';
import { type ExportForm, exportForms } from '../train/data/export-record.ts';
import { addSourceOptions, type Loaded, planOf, type SourceOptions, withData } from './dataset-source.ts';
import { validateCommand } from './dataset-validate.ts';
import { CliError } from './error.ts';
import { wholeNumber } from './parse.ts';
import { ProgressBar } from './progress.ts';

interface ConvertOptions extends SourceOptions {
  readonly to: ExportForm;
  readonly out: string;
  readonly images?: string;
  readonly skipBad?: boolean;
}

interface InspectOptions extends SourceOptions {
  readonly example: number;
}

/** `mantis dataset`: looks at training data on this machine and writes it in other forms. */
export function datasetCommand(): Command {
  const convert = new Command('convert')
    .description('write training data in another form: OpenAI, Mantis JSON or Parquet, LLaVA, ShareGPT')
    .argument('<in...>', 'files (JSON Lines, JSON, Parquet), or one mixture in Mantis’s form (.yaml)')
    .addOption(new Option('--to <form>', 'form to write').choices([...exportForms]).default('openai'))
    .requiredOption('-o, --out <file>', 'file to write')
    .option('--images <folder>', 'folder for the pictures (default: inside the file, where its form can)')
    .option('--skip-bad', 'write the good records where others have errors')
    .action(runConvert);
  const inspect = new Command('inspect')
    .description('what is in training data: counts, histograms, problems, and an example')
    .argument('<in...>', 'files (JSON Lines, JSON, Parquet), or one mixture in Mantis’s form (.yaml)')
    .option('--example <n>', 'which example to show', wholeNumber, 1)
    .action(runInspect);
  return new Command('dataset')
    .description('look at training data, and write it in other forms')
    .addCommand(addSourceOptions(convert))
    .addCommand(addSourceOptions(inspect))
    .addCommand(validateCommand());
}

async function runConvert(inputs: string[], options: ConvertOptions): Promise<void> {
  if (options.out.endsWith('.parquet') !== (options.to === 'mantis-parquet') && /\.(parquet|jsonl?)$/.test(options.out))
    throw new CliError(
      `--out: expected a name that fits --to ${options.to}, received "${options.out}"; Parquet is written by --to mantis-parquet`,
      2,
    );
  const plan = await planOf(inputs, options);
  for (const note of plan.notes) process.stderr.write(`note: ${note}\n`);
  await withData(plan, undefined, async ({ store, files, errors, problemCounts, withoutPictures }) => {
    const bad = files.reduce((sum, f) => sum + f.bad, 0) - withoutPictures;
    if (errors > 0 && options.skipBad !== true)
      throw new CliError(
        `${bad} records have errors (${listed(problemCounts)}), nothing was written; --skip-bad writes the other ${store.records}`,
      );
    const bar = new ProgressBar('written');
    const report = await exportData(store, options.to, options.out, {
      ...(options.images === undefined ? {} : { imageDir: options.images }),
      onProgress: (done, total) => bar.update(done, total),
    }).catch((error: unknown) => {
      throw new CliError(`${error instanceof Error ? error.message : String(error)} (--images <folder>)`);
    });
    bar.end();
    process.stdout.write(`${options.out}: ${report.written} examples with ${report.images} pictures\n`);
    if (bad > 0) process.stdout.write(`${bad} records with errors were left out (${listed(problemCounts)})\n`);
    for (const [what, count] of report.losses)
      process.stdout.write(`${options.to} has no place for the ${what}: left out of ${count} examples\n`);
    for (const [why, count] of report.notWritten)
      process.stdout.write(`${count} examples cannot be written in the form ${options.to}: ${why}\n`);
  });
}

const listed = (counts: ReadonlyMap<string, number>): string =>
  [...counts].map(([code, count]) => `${code} ${count}`).join(', ');

async function runInspect(inputs: string[], options: InspectOptions): Promise<void> {
  const plan = await planOf(inputs, options);
  const tally = new Tally();
  await withData(
    plan,
    (example) => {
      tally.add(example);
      return true;
    },
    async (loaded) => {
      process.stdout.write(`${await tally.report(loaded, plan.paths, options.example)}\n`);
    },
  );
}

type Histogram = Map<string | number, number>;

/** Counts over examples, as they come. */
class Tally {
  private readonly images: Histogram = new Map();
  private readonly turns: Histogram = new Map();
  private readonly skills: Histogram = new Map();
  private readonly pictures = new Set<string>();
  private references = 0;
  private answers = 0;
  private answerChars = 0;

  add({ images, messages, skill }: DataExample): void {
    count(this.images, images.length);
    count(this.turns, messages.length);
    if (skill !== null) count(this.skills, skill);
    this.references += images.length;
    // Enough to tell pictures apart, and short: there may be a million.
    for (const reference of images) this.pictures.add(reference.slice(0, 24));
    for (const { role, parts } of messages) {
      if (role !== 'assistant') continue;
      this.answers++;
      for (const part of parts) if (part.type === 'text') this.answerChars += part.text.length;
    }
  }

  async report(loaded: Loaded, paths: readonly string[], example: number): Promise<string> {
    const { store, files, problemCounts } = loaded;
    const lines = [
      `${store.records} usable examples, ${this.references} pictures (${this.pictures.size} different), ${this.answers} answers of ${Math.round(this.answerChars / Math.max(1, this.answers))} characters on average`,
    ];
    for (const [i, f] of files.entries()) {
      const limits = f.entries === f.usable ? '' : `, the mixture takes ${f.taken} of them in ${f.entries} entries`;
      const bad = f.bad === 0 ? '' : `, ${f.bad} left out`;
      lines.push(`  ${paths[i]}: ${f.records} records${bad}${limits}`);
    }
    if (problemCounts.size > 0) lines.push('', 'problems', ...bars(problemCounts));
    lines.push(
      '',
      'pictures an example',
      ...bars(this.images, true),
      '',
      'messages an example',
      ...bars(this.turns, true),
    );
    if (this.skills.size > 0) lines.push('', 'skills', ...bars(this.skills));
    if (store.records > 0) {
      const number = Math.min(Math.max(1, example), store.records);
      lines.push('', `example ${number} of ${store.records}`, ...shown(await store.record(number - 1)));
    }
    return lines.join('\n');
  }
}

function count(histogram: Histogram, key: string | number): void {
  histogram.set(key, (histogram.get(key) ?? 0) + 1);
}

/** A line a value, longest bar first; numbers in their order. */
function bars(histogram: ReadonlyMap<string | number, number>, byNumber = false): string[] {
  const rows = [...histogram].sort((a, b) => (byNumber ? Number(a[0]) - Number(b[0]) : b[1] - a[1])).slice(0, 40);
  const most = Math.max(...rows.map(([, n]) => n));
  const width = Math.max(...rows.map(([key]) => String(key).length));
  return rows.map(([key, n]) => {
    const bar = '█'.repeat(Math.max(1, Math.round((40 * n) / most)));
    return `  ${String(key).padStart(width)} ${bar} ${n}`;
  });
}

function shown({ messages, images, id, line }: DataExample): string[] {
  return [
    `  record ${line}${id === null ? '' : `, id ${id}`}`,
    ...messages.map(({ role, parts, weight }) => {
      const text = parts
        .map((part) =>
          part.type === 'text' ? part.text : `[picture ${part.image + 1}: ${images[part.image]?.slice(0, 19)}…]`,
        )
        .join('')
        .replace(/\s+/g, ' ');
      return `  ${role}${weight === 0 ? ' (weight 0)' : ''}: ${text.length > 240 ? `${text.slice(0, 239)}…` : text}`;
    }),
  ];
}
