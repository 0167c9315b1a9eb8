import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256Hex } from '../../io/digest.ts';
import { canonicalJson, type EvalAnswer, type EvalModel, type EvalPrompt, type Json } from '../task.ts';
import { makeFolder } from './make-folder.ts';

/** Raised when the same prompt is sent differently. */
const KEY_VERSION = 1;
/** How old the view of what other processes have added may be. */
const REFRESH_MS = 500;
const PIECE_BYTES = 1 << 20;

/**
 * Names the answer to a prompt by its content: the model with everything that changes its answers, the words, the digests of the pictures in their places, and
 * the bound of the answer. Choices count where they are compared.
 */
export function answerKey(model: Pick<EvalModel, 'identity' | 'comparesChoices'>, prompt: EvalPrompt): string {
  const content: Json = {
    version: KEY_VERSION,
    model: model.identity,
    system: prompt.system ?? null,
    ...(prompt.earlier === undefined
      ? {}
      : { earlier: prompt.earlier.map(({ role, parts }) => ({ role, parts: named(prompt, parts) })) }),
    parts: named(prompt, prompt.parts),
    ...(model.comparesChoices && prompt.choices !== undefined
      ? { choices: prompt.choices }
      : { maxTokens: prompt.maxTokens }),
  };
  return sha256Hex(canonicalJson(content));
}

const named = (prompt: EvalPrompt, parts: EvalPrompt['parts']): Json =>
  parts.map((part) => (typeof part === 'string' ? part : { image: digestOf(prompt, part.image) }));

function digestOf({ images }: EvalPrompt, index: number): string {
  const image = images[index];
  if (image === undefined) throw new Error(`a prompt shows picture ${index + 1}, but has ${images.length}`);
  return image.sha256;
}

/**
 * Answers by content, in one file that only grows and that runs may share, also at the same time: lines are appended whole, what was torn by a kill is not read,
 * and what others add is seen half a second later. Failures never get in.
 */
export class AnswerCache {
  readonly #file: FileHandle;
  readonly #answers = new Map<string, EvalAnswer>();
  /** Bytes of the file that have been read, up to the end of a line. */
  #read = 0;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #refreshing: Promise<void> | null = null;
  #lines: string[] = [];
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** @param dir made if it is not there; holds `answers.jsonl` @throws FolderError where it cannot be made */
  static async open(dir: string): Promise<AnswerCache> {
    await makeFolder(dir);
    const cache = new AnswerCache(await open(join(dir, 'answers.jsonl'), 'a+'));
    await cache.#refresh();
    return cache;
  }

  get size(): number {
    return this.#answers.size;
  }

  async get(key: string): Promise<EvalAnswer | null> {
    const known = this.#answers.get(key);
    if (known !== undefined) return known;
    await this.#refresh();
    return this.#answers.get(key) ?? null;
  }

  put(key: string, answer: EvalAnswer): void {
    if (this.#answers.has(key)) return;
    this.#answers.set(key, answer);
    this.#lines.push(`${JSON.stringify({ key, answer })}\n`);
    if (this.#lines.length === 1) this.#writing = this.#writing.then(() => this.#write());
  }

  async close(): Promise<void> {
    try {
      await this.#writing;
      await this.#refreshing;
    } finally {
      await this.#file.close();
    }
  }

  async #write(): Promise<void> {
    // What comes while this is waited for goes along.
    await new Promise((resolve) => setImmediate(resolve));
    const lines = this.#lines;
    this.#lines = [];
    // One call, at the end of the file whoever else appends. The first line break ends a line that somebody killed has left open.
    await this.#file.appendFile(`\n${lines.join('')}`);
  }

  #refresh(): Promise<void> {
    if (this.#refreshing !== null) return this.#refreshing;
    if (performance.now() - this.#lookedAtMs < REFRESH_MS) return Promise.resolve();
    this.#refreshing = this.#readOn().finally(() => {
      this.#refreshing = null;
      this.#lookedAtMs = performance.now();
    });
    return this.#refreshing;
  }

  async #readOn(): Promise<void> {
    const { size } = await this.#file.stat();
    let rest: Buffer = Buffer.alloc(0);
    for (let at = this.#read; at < size; ) {
      const piece = Buffer.alloc(Math.min(PIECE_BYTES, size - at));
      const { bytesRead } = await this.#file.read(piece, 0, piece.length, at);
      if (bytesRead === 0) break;
      at += bytesRead;
      const all = Buffer.concat([rest, piece.subarray(0, bytesRead)]);
      const end = all.lastIndexOf(10) + 1;
      for (const line of all.subarray(0, end).toString('utf8').split('\n')) this.#take(line);
      this.#read += end;
      rest = all.subarray(end);
    }
  }

  #take(line: string): void {
    if (line === '') return;
    try {
      const { key, answer } = JSON.parse(line) as { key?: unknown; answer?: EvalAnswer };
      if (typeof key === 'string' && typeof answer?.text === 'string') this.#answers.set(key, answer);
    } catch {
      // Torn by a kill, or two torn lines in one: asked again.
    }
  }
}
