import type { MantisClient } from '../../shared/client/client.ts';
import { CliError } from './error.ts';
import { JobView } from './job-view.ts';

/** Where a job's progress is shown: standard error, in real life. */
export interface Screen {
  readonly isTTY: boolean;
  readonly columns: number;
  readonly rows: number;
  readonly color: boolean;
  write(text: string): void;
}

export function standardError(): Screen {
  return {
    isTTY: process.stderr.isTTY === true,
    get columns() {
      return process.stderr.columns ?? 80;
    },
    get rows() {
      return process.stderr.rows ?? 24;
    },
    color: process.stderr.isTTY === true && process.env.NO_COLOR === undefined,
    write: (text) => void process.stderr.write(text),
  };
}

const DRAW_EVERY_MS = 100;
const LINE_EVERY_MS = 5_000;
/** Problems of data that are printed. */
const LISTED = 20;
/** The curve takes no more of a tall terminal. */
const MAX_ROWS = 18;

/** Draws a view in place on a terminal, with messages above it; elsewhere a line every few seconds. */
export class JobScreen {
  private drawnRows = 0;
  private drawnAtMs = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly view: JobView,
    private readonly screen: Screen,
    private readonly nowMs: () => number = () => performance.now(),
  ) {}

  /** A line that stays. */
  message(text: string): void {
    this.clear();
    this.screen.write(`${text}\n`);
    if (this.screen.isTTY) this.draw();
  }

  /** After the view has learned something. */
  update(): void {
    const { step, totalSteps } = this.view.progress;
    const isLast = step >= totalSteps;
    const sinceMs = this.nowMs() - this.drawnAtMs;
    if (sinceMs < (this.screen.isTTY ? DRAW_EVERY_MS : LINE_EVERY_MS) && !isLast) return;
    if (this.screen.isTTY) {
      this.clear();
      this.draw();
    } else this.screen.write(`${this.view.line()}\n`);
    this.drawnAtMs = this.nowMs();
  }

  /** Leaves the last picture as it is. */
  end(): void {
    if (this.screen.isTTY && this.view.hasSteps) {
      this.clear();
      this.draw();
    }
    this.drawnRows = 0;
  }

  private draw(): void {
    const { columns, rows, color } = this.screen;
    const lines = this.view.render({ columns: columns - 1, rows: Math.min(MAX_ROWS, rows - 2), color });
    this.drawnRows = lines.length;
    if (lines.length > 0) this.screen.write(`${lines.join('\n')}\n`);
  }

  private clear(): void {
    if (this.drawnRows > 0) this.screen.write(`\u001b[${this.drawnRows}A\u001b[J`);
    this.drawnRows = 0;
  }
}

/**
 * Shows a job's events as they come, with bar and curve, until it has ended. Ctrl-C leaves the job running.
 * @returns the tuned model's name
 * @throws CliError where the job did not succeed
 */
export async function followJob(api: MantisClient, id: string, screen: Screen = standardError()): Promise<string> {
  const view = new JobView();
  const shown = new JobScreen(view, screen);
  try {
    for await (const update of api.jobs.follow(id)) {
      if (update.type === 'event') {
        const { type, data, level, message, created_at } = update.event;
        if (type === 'metrics') {
          view.add(data ?? {}, created_at);
          shown.update();
        } else shown.message(level === 'info' ? message : `${level}: ${message}`);
      } else if (update.status === 'succeeded') return update.fineTunedModel ?? id;
      else {
        const { error, validation } = await api.jobs.retrieve(id);
        if (error?.code === 'invalid_training_file' && validation !== null)
          for (const line of await problemsOf(api, validation)) shown.message(line);
        throw new CliError(`${id} ${update.status}${error === null ? '' : `: ${error.message}`}`);
      }
    }
  } finally {
    shown.end();
  }
  throw new CliError(`the events of ${id} ended before the job did`);
}

/** What is wrong with the data, as far as a screen takes it. */
async function problemsOf(api: MantisClient, validation: string): Promise<string[]> {
  const { report } = await api.datasetValidations.retrieve(validation);
  const errors = (report?.problems ?? []).filter(({ severity }) => severity === 'error');
  const lines = errors
    .slice(0, LISTED)
    .map(
      ({ line, message, data }) =>
        `  ${typeof data === 'number' ? '' : `${data.replace('_', ' ')} `}${line === null ? '' : `line ${line}: `}${message}`,
    );
  return errors.length > LISTED ? [...lines, `  … and ${errors.length - LISTED} more in ${validation}`] : lines;
}
