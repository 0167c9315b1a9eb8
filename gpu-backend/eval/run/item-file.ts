import { type FileHandle, open } from 'node:fs/promises';
import { variantKey } from '../controls.ts';
import type { EvalItem, EvalVariant } from '../task.ts';

/** Answers that a power cut may cost at most, beside those of the last quarter of a second. */
const FLUSH_LINES = 256;
const FLUSH_MS = 250;

/** What names an item within a run. */
export function itemKey(record: string, variant: EvalVariant): string {
  return `${record}\n${variantKey(variant)}`;
}

/**
 * The items of a run, one a line, in the order in which answers came: every reader puts them in the run's own order. Lines reach the disk a few times a second;
 * of two lines about one item the later one counts.
 */
export class ItemFile {
  /** By `itemKey`, as found when the file was opened. */
  readonly found: ReadonlyMap<string, EvalItem>;
  readonly #file: FileHandle;
  #lines: string[] = [];
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle, found: ReadonlyMap<string, EvalItem>) {
    this.#file = file;
    this.found = found;
  }

  /** Opens or makes the file. A last line without an end is cut off: its writer was killed, and the item is asked again. */
  static async open(path: string): Promise<ItemFile> {
    const file = await open(path, 'a+');
    try {
      const bytes = await file.readFile();
      const end = bytes.lastIndexOf(10) + 1;
      if (end < bytes.length) await file.truncate(end);
      const found = new Map<string, EvalItem>();
      for (const item of parseItems(bytes.subarray(0, end).toString('utf8')))
        found.set(itemKey(item.record, item.variant), item);
      return new ItemFile(file, found);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  append(item: EvalItem): void {
    this.#lines.push(`${JSON.stringify(item)}\n`);
    if (this.#lines.length >= FLUSH_LINES) this.#flush();
    else this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  /** Everything that was appended is on disk when this resolves. @throws what writing threw */
  async flush(): Promise<void> {
    this.#flush();
    await this.#writing;
  }

  async close(): Promise<void> {
    try {
      await this.flush();
    } finally {
      await this.#file.close();
    }
  }

  #flush(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#lines.length === 0) return;
    const text = this.#lines.join('');
    this.#lines = [];
    this.#writing = this.#writing.then(async () => {
      await this.#file.appendFile(text);
      await this.#file.datasync();
    });
    // It is thrown where it is waited for.
    this.#writing.catch(() => {});
  }
}

/** Lines that are no items (a disk that lost a block) are passed over: what they held is asked again. */
export function parseItems(text: string): EvalItem[] {
  return text.split('\n').flatMap((line) => {
    if (line === '') return [];
    try {
      const item = JSON.parse(line) as Partial<EvalItem> | null;
      const isItem =
        typeof item?.record === 'string' && typeof item.score === 'number' && typeof item.variant?.control === 'string';
      return isItem ? [item as EvalItem] : [];
    } catch {
      return [];
    }
  });
}
