import { benchmarkFacts } from '../eval/facts.ts';
import type { EvalFlags } from './eval-options.ts';
import { OWN, taskNames, taskOf } from './eval-task.ts';
import { printTable } from './table.ts';

/** What `mantis eval list` says of a task. */
interface Listed {
  readonly task: string;
  readonly title: string;
  readonly split: string | null;
  readonly questions: number | null;
  readonly pictures: string;
  /** Where its files come from; null for generated questions. */
  readonly files: string | null;
  /** Whether its authors let a model read answers that no rule reads (`--judge`). */
  readonly judge: boolean;
}

/** All benchmarks with what one needs to know before fetching one. */
export function listTasks({ json }: { readonly json?: boolean }): void {
  const tasks = taskNames().map((name): Listed => {
    const { title, extraction } = taskOf(name, {} as EvalFlags);
    const facts = benchmarkFacts[name];
    return {
      task: name,
      title,
      split: facts?.split ?? null,
      questions: facts?.records ?? null,
      pictures: facts?.pictures ?? (name === OWN ? 'any' : '2 to 9'),
      files: facts?.files ?? (name === OWN ? 'what fine-tuning takes: JSON Lines, JSON, Parquet' : null),
      judge: extraction !== undefined,
    };
  });
  if (json === true) {
    process.stdout.write(`${JSON.stringify(tasks)}\n`);
    return;
  }
  printTable(
    ['task', 'benchmark', 'split', 'questions', 'pictures', 'judge', 'files'],
    tasks.map((one) => [
      one.task,
      one.title,
      one.split ?? '',
      one.questions?.toLocaleString('en-US') ?? '',
      one.pictures,
      one.judge ? 'may' : '',
      one.files ?? 'none: generated',
    ]),
  );
}
