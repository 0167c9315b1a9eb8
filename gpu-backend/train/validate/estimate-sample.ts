import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { finished } from 'node:stream/promises';
import type { DataSpec } from '../../../shared/contract/backend.ts';
import type { Message } from '../../text/layout.ts';
import { sniffFormat } from '../../vision/header.ts';
import type { DataExample } from '../data/example.ts';
import type { ExampleStore } from '../data/store.ts';
import type { FineTuneData } from '../finetune-spec.ts';

/** Which entries a measurement trains on: the longest, whose micro-batch is the largest, and others spread evenly over the data. */
export function sampleEntries(
  entries: readonly number[],
  tokensOf: (entry: number) => number,
  count: number,
): number[] {
  let longest = entries[0] ?? 0;
  for (const entry of entries) if (tokensOf(entry) > tokensOf(longest)) longest = entry;
  const others = Array.from(
    { length: count - 1 },
    (_, i) => entries[Math.floor(((i + 0.5) * entries.length) / count)] ?? 0,
  );
  return [longest, ...others];
}

/** Writes examples as a training file of their own, pictures inside. */
export async function writeSample(
  store: ExampleStore,
  entries: readonly number[],
  path: string,
): Promise<FineTuneData> {
  const out = createWriteStream(path);
  for (const entry of entries) {
    const line = `${JSON.stringify({ messages: await messagesOf(store, await store.get(entry)) })}\n`;
    if (!out.write(line)) await once(out, 'drain');
  }
  out.end();
  await finished(out);
  // Nothing reads id or digest: the file is at hand.
  const file = { id: 'sample', bytes: out.bytesWritten, sha256: String(entries.length) };
  const spec: DataSpec = {
    files: [{ file_id: 'sample', file, filename: 'sample.jsonl', format: 'openai' }],
    balancing: false,
  };
  return { spec, paths: [path] };
}

async function messagesOf(store: ExampleStore, { messages, images }: DataExample): Promise<unknown[]> {
  const made: unknown[] = [];
  for (const { role, parts, weight } of messages)
    made.push({ role, content: await contentOf(store, parts, images), ...(weight === 0 ? { weight } : {}) });
  return made;
}

async function contentOf(store: ExampleStore, parts: Message['parts'], images: readonly string[]): Promise<unknown> {
  const content: unknown[] = [];
  for (const part of parts) {
    if (part.type === 'text') content.push({ type: 'text', text: part.text });
    else {
      const bytes = await store.readImage(images[part.image] ?? '');
      const url = `data:image/${sniffFormat(bytes) ?? 'png'};base64,${Buffer.from(bytes).toString('base64')}`;
      content.push({ type: 'image_url', image_url: { url } });
    }
  }
  return content;
}
