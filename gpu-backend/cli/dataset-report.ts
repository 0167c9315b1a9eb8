import type { DataSummary, DatasetReport, TrainingEstimate } from '../../shared/contract/datasets.ts';

/** Problems that are printed; all of them are in the JSON, or in the file that the report names. */
const SHOWN_PROBLEMS = 20;
const SHOWN_OF_A_KIND = 5;
const BAR_WIDTH = 24;
const MAX_BARS = 12;

/** A report as a person reads it: the verdict first, then what is there, what is wrong, and what training would take. */
export function reportText(report: DatasetReport): string {
  const blocks = [
    verdict(report),
    ...report.training.map((summary, i) =>
      about(report.training.length > 1 ? `training list ${i + 1}` : 'training', summary),
    ),
    ...(report.validation === null ? [] : [about('validation', report.validation)]),
    ...(report.held_out ?? []).map((summary) => about('held out', summary)),
    problems(report),
    likeness(report),
    ...(report.estimate === null ? [] : [estimated(report.estimate)]),
  ];
  return blocks.filter((block) => block !== '').join('\n\n');
}

const number = (value: number): string => Math.round(value).toLocaleString('en-US');
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const counted = (n: number, what: string): string => `${number(n)} ${what}${n === 1 ? '' : 's'}`;

function verdict({ verdict: what, training, held_out = [], bad_share, max_bad_share }: DatasetReport): string {
  const sum = (count: (summary: DataSummary) => number): number => training.reduce((total, s) => total + count(s), 0);
  const bad = sum((s) => s.bad);
  const usable = `${number(sum((s) => s.usable))} of ${counted(
    sum((s) => s.examples),
    'example',
  )} can be trained on`;
  const share = `${percent(bad_share)} of the lines are bad, at most ${percent(max_bad_share)} may be`;
  const heldOut = held_out.reduce((total, { bad: n }) => total + n, 0);
  const held = heldOut === 0 ? '' : `; of what is held out ${counted(heldOut, 'line')} bad, where none may be`;
  if (what === 'refused') return `REFUSED: ${usable}; ${share}${held}`;
  return bad === 0 ? `accepted: ${usable}` : `accepted: ${usable}; ${share}, and these are left out`;
}

function about(name: string, summary: DataSummary): string {
  const { tokens, supervised_tokens, image_tokens } = summary;
  const taken = summary.usable - summary.not_taken;
  const of = (part: number): string => percent(tokens.total === 0 ? 0 : part / tokens.total);
  const lines = [
    `${name}: ${counted(taken, 'example')}${summary.not_taken > 0 ? ` (${number(summary.not_taken)} more are not taken)` : ''}, ${counted(summary.images, 'picture')}, ${number(summary.unique_images)} different`,
    `  tokens: ${number(tokens.total)} in all, ${of(supervised_tokens)} learned, ${of(image_tokens)} pictures; an example has ${number(tokens.min)} to ${number(tokens.max)}, median ${number(tokens.median)}, 95 % at most ${number(tokens.p95)}`,
    ...histogram('pictures an example', summary.images_per_example),
    ...histogram('turns an example', summary.turns_per_example),
  ];
  if (Object.keys(summary.skills).some((skill) => skill !== 'unknown'))
    lines.push(...histogram('skills', summary.skills));
  if (Object.keys(summary.subsets).length > 1) lines.push(...histogram('files', summary.subsets));
  return lines.join('\n');
}

function histogram(title: string, counts: Readonly<Record<string, number>>): string[] {
  const entries = Object.entries(counts);
  if (entries.length === 0) return [];
  if (entries.length === 1) return [`  ${title}: ${entries[0]?.[0]} each`];
  const shown = entries.slice(0, MAX_BARS);
  const most = Math.max(...shown.map(([, count]) => count));
  const [wide, high] = [
    Math.max(...shown.map(([key]) => key.length)),
    Math.max(...shown.map(([, count]) => number(count).length)),
  ];
  const bars = shown.map(([key, count]) => {
    const bar = '█'.repeat(Math.max(1, Math.round((BAR_WIDTH * count) / most)));
    return `    ${key.padStart(wide)}  ${number(count).padStart(high)}  ${bar}`;
  });
  const rest = entries.length - shown.length;
  return [`  ${title}:`, ...bars, ...(rest > 0 ? [`    … and ${rest} further values`] : [])];
}

function problems({ problem_counts, problems: listed, problems_file }: DatasetReport): string {
  const kinds = Object.entries(problem_counts);
  if (kinds.length === 0) return 'problems: none';
  const all = kinds.reduce((sum, [, count]) => sum + count, 0);
  const lines = [`problems: ${kinds.map(([code, count]) => `${code} ${number(count)}`).join(', ')}`];
  // Errors first: they are what is left out. And some of every kind.
  const order = [...listed].sort((x, y) => Number(x.severity === 'warning') - Number(y.severity === 'warning'));
  const shown = new Map<string, number>();
  const some = order.filter(({ code }) => {
    shown.set(code, (shown.get(code) ?? 0) + 1);
    return (shown.get(code) ?? 0) <= SHOWN_OF_A_KIND;
  });
  for (const { severity, data, subset, line, message, code } of some.slice(0, SHOWN_PROBLEMS)) {
    const where = [
      typeof data === 'number' ? '' : data.replace('_', ' '),
      subset ?? '',
      line === null ? '' : `line ${line}`,
    ];
    const at = where.filter((part) => part !== '').join(', ');
    lines.push(`  ${severity}${at === '' ? '' : ` ${at}`}: ${message} (${code})`);
  }
  const more = all - Math.min(some.length, SHOWN_PROBLEMS);
  if (more > 0)
    lines.push(
      `  … and ${number(more)} more${problems_file === null ? ' (--json lists them)' : `: all are in the file ${problems_file}`}`,
    );
  return lines.join('\n');
}

function likeness({ duplicates, leakage, validation }: DatasetReport): string {
  const lines: string[] = [];
  if (duplicates.exact + duplicates.near > 0)
    lines.push(`duplicates: ${number(duplicates.exact)} exact, ${number(duplicates.near)} almost`);
  if (validation !== null)
    lines.push(
      leakage.images + leakage.examples === 0
        ? 'leakage: no validation picture or example is in the training data'
        : `leakage: ${counted(leakage.images, 'validation picture')} and ${counted(leakage.examples, 'example')} are in the training data too`,
    );
  const { held_out_images: pictures, held_out_examples: examples } = leakage;
  if (pictures !== undefined && examples !== undefined)
    lines.push(
      pictures + examples === 0
        ? 'leakage: no held-out picture or example is in the training data'
        : `leakage: ${counted(pictures, 'held-out picture')} and ${counted(examples, 'held-out example')} are in the training data too`,
    );
  return lines.join('\n');
}

function estimated(estimate: TrainingEstimate): string {
  const lines = [
    `training would take ${duration(estimate.seconds)} and ${bytes(estimate.memory_bytes)} of memory on ${estimate.backend}: ${counted(estimate.steps, 'step')}, ${number(estimate.tokens)} tokens at ${number(estimate.tokens_per_second)} a second`,
  ];
  for (const [i, stage] of estimate.stages.entries())
    lines.push(
      `  stage ${i + 1}, ${stage.train}: ${counted(stage.steps, 'step')}, ${number(stage.tokens)} tokens, ${duration(stage.seconds)}, ${bytes(stage.memory_bytes)}, ${number(stage.trained_parameters)} trained parameters`,
    );
  return lines.join('\n');
}

function duration(seconds: number): string {
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${(seconds / 3_600).toFixed(1)} h` : `${(seconds / 86_400).toFixed(1)} days`;
}

function bytes(value: number): string {
  return value < 1e9 ? `${Math.round(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}
