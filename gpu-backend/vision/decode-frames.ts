/**
 * What parent and decode process say to each other over one pipe: frames of a JSON head and raw bytes, `[u32 head length] [u32 body
 * length] [head] [body]`, little endian. Pictures go in as they came and out as 8-bit pixels: nothing is copied into messages.
 */

import { readSync, writeSync } from 'node:fs';
import type { ErrorFacts } from '../../shared/contract/facts.ts';
import type { ImageErrorCode } from './image-error.ts';
import type { ImageRecipe } from './recipes.ts';

/** Body: the picture's file. */
export interface DecodeJob {
  readonly recipe: ImageRecipe;
}

export type DecodeReply =
  /** Waits for a picture. */
  | { readonly kind: 'ready' }
  /** Body: pixels_HWC, 8 bits, fitted by the recipe. */
  | { readonly kind: 'image'; readonly width: number; readonly height: number; readonly digest: string }
  | { readonly kind: 'refused'; readonly code: ImageErrorCode; readonly facts: ErrorFacts }
  | { readonly kind: 'failed'; readonly message: string };

const PREFIX_BYTES = 8;

/** Prefix and head of a frame; the body follows as it is. */
export function frameHead(head: DecodeJob | DecodeReply, bodyBytes: number): Buffer {
  const json = Buffer.from(JSON.stringify(head));
  const frame = Buffer.alloc(PREFIX_BYTES + json.byteLength);
  frame.writeUInt32LE(json.byteLength, 0);
  frame.writeUInt32LE(bodyBytes, 4);
  frame.set(json, PREFIX_BYTES);
  return frame;
}

/** Puts frames together from the pieces a pipe gives. */
export class FrameReader {
  /** Bytes of prefix and head that have come so far. */
  private front: Uint8Array = new Uint8Array(0);
  private head: DecodeReply | null = null;
  private body: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  private filled = 0;

  constructor(private readonly onFrame: (head: DecodeReply, body: Uint8Array<ArrayBuffer>) => void) {}

  push(piece: Uint8Array): void {
    let rest = piece;
    while (rest.byteLength > 0) {
      if (this.head === null) rest = this.readFront(rest);
      if (this.head === null) return;
      const part = rest.subarray(0, this.body.byteLength - this.filled);
      this.body.set(part, this.filled);
      this.filled += part.byteLength;
      rest = rest.subarray(part.byteLength);
      if (this.filled < this.body.byteLength) return;
      const { head, body } = this;
      [this.head, this.body, this.filled] = [null, new Uint8Array(0), 0];
      this.onFrame(head, body);
    }
  }

  /** Returns what stands after the head. */
  private readFront(piece: Uint8Array): Uint8Array {
    const front = Buffer.concat([this.front, piece]);
    this.front = front;
    if (front.byteLength < PREFIX_BYTES) return new Uint8Array(0);
    const end = PREFIX_BYTES + front.readUInt32LE(0);
    if (front.byteLength < end) return new Uint8Array(0);
    this.head = JSON.parse(front.toString('utf8', PREFIX_BYTES, end)) as DecodeReply;
    this.body = new Uint8Array(front.readUInt32LE(4));
    this.front = new Uint8Array(0);
    return front.subarray(end);
  }
}

/** The next frame of a blocking file descriptor; null at its end, which is the parent's. */
export function readFrame(fd: number): { job: DecodeJob; bytes: Uint8Array } | null {
  const prefix = readExactly(fd, PREFIX_BYTES);
  if (prefix === null) return null;
  const head = readExactly(fd, prefix.readUInt32LE(0));
  const bytes = head === null ? null : readExactly(fd, prefix.readUInt32LE(4));
  if (head === null || bytes === null) return null;
  return { job: JSON.parse(head.toString()) as DecodeJob, bytes };
}

function readExactly(fd: number, length: number): Buffer | null {
  const buffer = Buffer.alloc(length);
  for (let filled = 0; filled < length; ) {
    const count = readSync(fd, buffer, filled, length - filled, null);
    if (count === 0) return null;
    filled += count;
  }
  return buffer;
}

/** Writes a frame to a blocking file descriptor. @throws Error when the parent is gone */
export function writeFrame(fd: number, head: DecodeReply, body: Uint8Array = new Uint8Array(0)): void {
  for (const part of [frameHead(head, body.byteLength), body])
    for (let at = 0; at < part.byteLength; ) at += writeSync(fd, part, at);
}
