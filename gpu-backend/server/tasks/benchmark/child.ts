/** The process that reads the files of a benchmark and lays its questions out. It has no credentials and talks to nobody but its parent. */
import { setPriority } from 'node:os';
import type { FromLayout, LayoutStart } from './child-protocol.ts';
import { layOut, Refusal } from './layout.ts';
import { askingTask } from './task.ts';

async function run({ source, folder, into }: LayoutStart): Promise<FromLayout> {
  try {
    const task = await askingTask(source.benchmark, source.options);
    return { type: 'done', laid: await layOut(task, source.options, folder, into) };
  } catch (error) {
    if (error instanceof Refusal) return { type: 'refused', message: error.message, param: error.param };
    const message = error instanceof Error ? error.message : String(error);
    process.stderr.write(`benchmark: ${error instanceof Error ? (error.stack ?? message) : message}\n`);
    return { type: 'crashed', message };
  }
}

// Answers come before this where both want the processor.
setPriority(10);
process.on('disconnect', () => process.exit(1));
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});
process.on('message', (start: LayoutStart) => {
  void run(start).then((message) => process.send?.(message, () => process.exit(0)));
});
