import { wholeOf } from './facts.ts';
import { type TaskOptions, wrapTask } from './options.ts';
import type { EvalTask } from './task.ts';
import { blinkTask } from './tasks/blink.ts';
import { mantisEvalTask } from './tasks/mantis-eval.ts';
import { mathVistaTask } from './tasks/mathvista.ts';
import { mmBenchTask } from './tasks/mmbench.ts';
import { mmiuTask } from './tasks/mmiu.ts';
import { mmmuTask } from './tasks/mmmu.ts';
import { muirBenchTask } from './tasks/muirbench.ts';
import { mvBenchTask } from './tasks/mvbench.ts';
import { nlvrTask } from './tasks/nlvr.ts';
import { nlvr2Task } from './tasks/nlvr2.ts';
import { okVqaTask } from './tasks/okvqa.ts';
import { qbench2Task } from './tasks/qbench2.ts';
import { scienceQaTask } from './tasks/scienceqa.ts';
import { textVqaTask } from './tasks/textvqa.ts';
import { vqaV2Task } from './tasks/vqav2.ts';

export type TaskFactory = (options?: TaskOptions) => EvalTask;

/** Every task that reads files, by name. Generated ones (`skills`) are handed in by whoever generates them. */
export const taskFactories: Readonly<Record<string, TaskFactory>> = {
  nlvr: nlvrTask,
  nlvr2: nlvr2Task,
  qbench2: qbench2Task,
  'mantis-eval': mantisEvalTask,
  blink: blinkTask,
  mvbench: mvBenchTask,
  textvqa: textVqaTask,
  vqav2: vqaV2Task,
  mmbench: mmBenchTask,
  mmmu: mmmuTask,
  okvqa: okVqaTask,
  scienceqa: scienceQaTask,
  mathvista: mathVistaTask,
  muirbench: muirBenchTask,
  mmiu: mmiuTask,
};

/** @throws Error listing the names where there is no such task */
export function taskNamed(name: string, options: TaskOptions = {}): EvalTask {
  const factory = Object.hasOwn(taskFactories, name) ? taskFactories[name] : undefined;
  if (factory === undefined)
    throw new Error(`there is no task ${JSON.stringify(name)}; there are ${Object.keys(taskFactories).join(', ')}`);
  const whole = wholeOf(name);
  return wrapTask({ ...factory(options), ...(whole === undefined ? {} : { whole }) }, options);
}
