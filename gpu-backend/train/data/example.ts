import { createHash } from 'node:crypto';
import type { Skill } from '../../../shared/contract/datasets.ts';
import type { Message } from '../../text/layout.ts';

/** What a record said about a picture besides its content; kept for exports. */
export interface ImageNote {
  /** Path or name it had in the record. */
  readonly path?: string;
  readonly detail?: 'auto' | 'low' | 'high';
}

/** One conversation, whatever form its record had. Pictures are references, never bytes. */
export interface DataExample {
  /** Line of the file, or record of a JSON array or Parquet file, from 1. */
  readonly line: number;
  /** Index into the files of the data's spec. */
  readonly file: number;
  readonly id: string | null;
  /** Name of its subset; null where that has none. */
  readonly subset: string | null;
  readonly skill: Skill | null;
  /** Examples of one group depend on each other; absent where the record names none. Records in OpenAI's form may. */
  readonly group?: string;
  readonly messages: readonly Message[];
  /**
   * In reading order; `Part.image` of the messages is an index into this list. `sha256:…`: the digest of bytes that the store has, or that the tenant
   * has uploaded. `file-…` ids and https addresses stay outside the store.
   */
  readonly images: readonly string[];
  readonly notes: readonly ImageNote[];
  /** Equal for equal conversations: roles, texts, weights, and the pictures' references. SHA-256, hex. */
  readonly contentHash: string;
}

/** The digest that makes equal conversations equal; text that was split into several parts counts as one. */
export function contentHashOf(messages: readonly Message[], images: readonly string[]): string {
  const hash = createHash('sha256');
  for (const { role, parts, weight } of messages) {
    hash.update(`${JSON.stringify([role, weight ?? 1])}\n`);
    let text: string | null = null;
    for (const part of parts) {
      if (part.type === 'text') {
        text = (text ?? '') + part.text;
        continue;
      }
      if (text !== null && text !== '') hash.update(`t${JSON.stringify(text)}\n`);
      text = null;
      hash.update(`i${JSON.stringify(images[part.image] ?? '')}\n`);
    }
    if (text !== null && text !== '') hash.update(`t${JSON.stringify(text)}\n`);
  }
  return hash.digest('hex');
}
