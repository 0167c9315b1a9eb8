import { lossCurve, type Point } from './curve.ts';

export interface ViewOptions {
  readonly columns: number;
  readonly rows: number;
  readonly color: boolean;
}

const BARS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/** What a job's events have said so far, and how it is shown. */
export class JobView {
  readonly train: Point[] = [];
  readonly validation: Point[] = [];
  /** Accuracies of evaluated checkpoints, 0…1. */
  readonly evaluations: Point[] = [];
  private evaluation: Readonly<Record<string, unknown>> = {};
  private last: Readonly<Record<string, unknown>> = {};
  private totalSteps = 0;
  /** First steps of all stages but the first. */
  private stageStarts: number[] = [];
  /** When steps were done, seconds, the newest so many. */
  private times: { step: number; atS: number }[] = [];

  /** @param atS when the event was made, Unix seconds */
  add(data: Readonly<Record<string, unknown>>, atS: number): void {
    const { step, total_steps, train_loss } = data;
    if (typeof step !== 'number') return;
    if (typeof data.eval_accuracy === 'number') {
      // Told after its step, perhaps by another worker: it says nothing about how far the job is.
      while ((this.evaluations.at(-1)?.step ?? 0) >= step) this.evaluations.pop();
      this.evaluations.push({ step, value: data.eval_accuracy });
      this.evaluation = data;
      return;
    }
    if (this.train.length > 0 && data.stage !== this.last.stage && step > this.progress.step)
      this.stageStarts.push(step);
    this.stageStarts = this.stageStarts.filter((start) => start <= step);
    this.last = data;
    if (typeof total_steps === 'number') this.totalSteps = total_steps;
    // A job that was resumed tells some steps again.
    while ((this.train.at(-1)?.step ?? 0) >= step) this.train.pop();
    while ((this.validation.at(-1)?.step ?? 0) >= step) this.validation.pop();
    if (typeof train_loss === 'number') this.train.push({ step, value: train_loss });
    const valid = data.full_valid_loss ?? data.valid_loss;
    if (typeof valid === 'number') this.validation.push({ step, value: valid });
    if (this.times.some((time) => time.step >= step)) this.times = [];
    this.times.push({ step, atS });
    if (this.times.length > 200) this.times.shift();
  }

  get hasSteps(): boolean {
    return this.train.length > 0;
  }

  get progress(): { step: number; totalSteps: number } {
    const { step } = this.last;
    return { step: typeof step === 'number' ? step : 0, totalSteps: this.totalSteps };
  }

  /** Curve, bar and numbers, for a terminal. */
  render({ columns, rows, color }: ViewOptions): string[] {
    if (!this.hasSteps) return [];
    const { step, totalSteps } = this.progress;
    const curve = lossCurve(this.train, this.validation, {
      columns,
      rows: rows - 3 - (this.evaluations.length > 0 ? 1 : 0),
      lastStep: totalSteps,
      marks: this.stageStarts,
      color,
    });
    const share = totalSteps > 0 ? Math.min(1, step / totalSteps) : 0;
    const head = `step ${step}/${totalSteps} ${Math.floor(100 * share)} %${this.timeLeft()}`;
    const width = Math.max(0, Math.min(40, columns - head.length - 3));
    const filled = Math.round(share * width);
    const legend = `loss: training ⠤⠒ ${fixed(this.last.train_loss)}${this.validationText()}`;
    return [
      legend,
      ...curve,
      this.evaluationText(columns),
      `[${'█'.repeat(filled)}${'·'.repeat(width - filled)}] ${head}`,
      this.numbers(columns),
    ]
      .filter((line) => line !== '')
      .map((line) => cut(line, columns));
  }

  /** The same in one line, where there is no terminal. */
  line(): string {
    const { step, totalSteps } = this.progress;
    const share = totalSteps > 0 ? Math.min(1, step / totalSteps) : 0;
    const numbers = this.numbers();
    return `step ${step}/${totalSteps} ${Math.floor(100 * share)} %${this.timeLeft()} loss ${fixed(this.last.train_loss)}${this.validationText()}${numbers === '' ? '' : `, ${numbers}`}${this.evaluations.length === 0 ? '' : `, ${this.evaluationText()}`}`;
  }

  /** How checkpoints did on the held-out examples: a bar each, from 0 to 1, and the newest in numbers. */
  private evaluationText(columns = 0): string {
    const last = this.evaluations.at(-1);
    if (last === undefined) return '';
    const { eval_interval: interval, eval_examples: examples, eval_base_accuracy: base } = this.evaluation;
    const percent = (share: unknown) => (typeof share === 'number' ? `${(100 * share).toFixed(1)} %` : '?');
    const range = Array.isArray(interval) ? ` (${percent(interval[0])} … ${percent(interval[1])})` : '';
    const best = this.evaluations.reduce((most, point) => (point.value > most.value ? point : most));
    const words = `held out ${percent(last.value)}${range} of ${typeof examples === 'number' ? examples : '?'}, before ${percent(base)}, best at step ${best.step}`;
    const room = Math.max(0, columns - words.length - 1);
    const bars = this.evaluations
      .slice(-room || this.evaluations.length)
      .map(({ value }) => BARS[Math.min(BARS.length - 1, Math.floor(value * BARS.length))])
      .join('');
    return columns === 0 ? words : room === 0 ? words : `${bars} ${words}`;
  }

  private validationText(): string {
    const best = this.validation.at(-1);
    return best === undefined ? '' : `, validation ◆ ${fixed(best.value)}`;
  }

  /** What fits, the most telling first. */
  private numbers(columns = Number.POSITIVE_INFINITY): string {
    const { stage, train, epoch, train_mean_token_accuracy, learning_rate, tokens_per_second, grad_norm } = this.last;
    const parts = [
      typeof train === 'string' ? `stage ${typeof stage === 'number' ? `${stage + 1} ` : ''}${train}` : null,
      typeof epoch === 'number' ? `epoch ${epoch}` : null,
      typeof train_mean_token_accuracy === 'number'
        ? `accuracy ${(100 * train_mean_token_accuracy).toFixed(1)} %`
        : null,
      typeof learning_rate === 'number' ? `rate ${learning_rate.toExponential(2)}` : null,
      typeof tokens_per_second === 'number'
        ? `${Math.round(tokens_per_second).toLocaleString('en-US')} tokens/s`
        : null,
      typeof grad_norm === 'number' ? `gradient ${fixed(grad_norm)}` : null,
    ].filter((part) => part !== null);
    while (parts.length > 1 && parts.join(' · ').length > columns) parts.pop();
    return parts.join(' · ');
  }

  private timeLeft(): string {
    const first = this.times[0];
    const last = this.times.at(-1);
    if (first === undefined || last === undefined || last.atS - first.atS < 2 || last.step >= this.totalSteps)
      return '';
    const secondsPerStep = (last.atS - first.atS) / (last.step - first.step);
    return ` ${span(secondsPerStep * (this.totalSteps - last.step))} left`;
  }
}

/** A loss or norm in few characters, however small. */
export function fixed(value: unknown): string {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '?';
  return value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(2) : value.toFixed(4);
}

function span(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Shortens a line to so many characters, escape sequences not counted. */
function cut(line: string, columns: number): string {
  return line.includes('\u001b') || line.length <= columns ? line : line.slice(0, columns);
}
