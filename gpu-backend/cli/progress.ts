/** A progress bar on standard error. Where that is no terminal, a line every few seconds instead. */
export class ProgressBar {
  readonly #label: string;
  readonly #startedAt = performance.now();
  #lastLineAt = Number.NEGATIVE_INFINITY;
  #open = false;

  constructor(label: string) {
    this.#label = label;
  }

  /** @param note shown behind the bar, e.g. the loss */
  update(done: number, total: number, note = ''): void {
    const ratio = total > 0 ? Math.min(done / total, 1) : 0;
    const text = `${this.#label} ${done}/${total} ${Math.floor(ratio * 100)} %${remaining(ratio, performance.now() - this.#startedAt)} ${note}`;
    if (!process.stderr.isTTY) {
      const now = performance.now();
      if (now - this.#lastLineAt < 5_000 && ratio < 1) return;
      this.#lastLineAt = now;
      process.stderr.write(`${text.trimEnd()}\n`);
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
}

function remaining(ratio: number, elapsedMs: number): string {
  if (ratio <= 0 || ratio >= 1 || elapsedMs < 1_000) return '';
  const seconds = Math.round(((elapsedMs / ratio) * (1 - ratio)) / 1000);
  return seconds < 90 ? ` ${seconds} s left` : ` ${Math.round(seconds / 60)} min left`;
}
