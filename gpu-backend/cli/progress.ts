/** Between lines where there is no terminal. */
const LINE_MS = 5_000;
const WINDOW_MS = 30_000;
const STEP_MS = 250;
/** A shorter look tells no pace. */
const LEAST_MS = 2_000;

/** A progress bar on standard error. Where that is no terminal, a line every few seconds instead. */
export class ProgressBar {
  readonly #label: string;
  #lastLineAt = Number.NEGATIVE_INFINITY;
  #lastLine = '';
  /** What was done when, oldest first: the last half a minute. */
  readonly #passed: { readonly atMs: number; readonly done: number }[] = [];
  #open = false;

  constructor(label: string) {
    this.#label = label;
  }

  /** @param note shown behind the bar, e.g. the loss */
  update(done: number, total: number, note = ''): void {
    const ratio = total > 0 ? Math.min(done / total, 1) : 0;
    const now = performance.now();
    const text = `${this.#label} ${done}/${total} ${Math.floor(ratio * 100)} %${this.#remaining(done, total, now)} ${note}`;
    if (!process.stderr.isTTY) {
      const line = `${text.trimEnd()}\n`;
      if ((now - this.#lastLineAt < LINE_MS && ratio < 1) || line === this.#lastLine) return;
      this.#lastLineAt = now;
      this.#lastLine = line;
      process.stderr.write(line);
      return;
    }
    const width = Math.max(10, Math.min(40, (process.stderr.columns ?? 80) - text.length - 4));
    const filled = Math.round(ratio * width);
    process.stderr.write(`\r[${'█'.repeat(filled)}${'·'.repeat(width - filled)}] ${text}\u001b[K`);
    this.#open = true;
  }

  /** A line above the bar. */
  log(line: string): void {
    process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${line}\n` : `${line}\n`);
  }

  end(): void {
    if (this.#open) process.stderr.write('\n');
    this.#open = false;
  }

  /** By the pace of the last half a minute, once there is one: what was found done at the start is no pace. */
  #remaining(done: number, total: number, nowMs: number): string {
    const passed = this.#passed;
    if (passed.length === 0 || nowMs - (passed.at(-1)?.atMs ?? 0) >= STEP_MS) passed.push({ atMs: nowMs, done });
    while (passed.length > 2 && nowMs - (passed[1]?.atMs ?? 0) > WINDOW_MS) passed.shift();
    const [first] = passed;
    if (first === undefined || done >= total || nowMs - first.atMs < LEAST_MS || done <= first.done) return '';
    const seconds = Math.round(((total - done) * (nowMs - first.atMs)) / (done - first.done) / 1000);
    return seconds < 90 ? ` ${seconds} s left` : ` ${Math.round(seconds / 60)} min left`;
  }
}
