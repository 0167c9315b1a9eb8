/**
 * A batch against the same lines sent by parallel clients, through the whole product with the shipped model. The last line is JSON.
 *
 *     npm run bench -- batches [--lines 1000] [--clients 16] [--rounds 3] [--max-tokens 16] [--images 0]
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { toFile } from 'openai';
import { startProduct, stopAndForget } from '../wire/e2e/product.ts';

const { values } = parseArgs({
  options: {
    lines: { type: 'string', default: '1000' },
    clients: { type: 'string', default: '16' },
    rounds: { type: 'string', default: '3' },
    'max-tokens': { type: 'string', default: '16' },
    images: { type: 'string', default: '0' },
  },
});
const [lines, clients, rounds, maxTokens, images] = [
  values.lines,
  values.clients,
  values.rounds,
  values['max-tokens'],
  values.images,
].map(Number) as [number, number, number, number, number];

const product = await startProduct({ env: { MANTIS_LOG_LEVEL: 'warn' } });
const { client } = product;

const folder = join(import.meta.dirname, '../fixtures/pictures');
const pictures = readdirSync(folder)
  .filter((name) => name.endsWith('.png'))
  .map((name) => `data:image/png;base64,${readFileSync(join(folder, name)).toString('base64')}`);

/** Requests of one run: no two runs ask the same, so that none profits from another's caches. */
function requests(run: string) {
  return Array.from({ length: lines }, (_, i) => ({
    model: 'mantis-nano',
    max_tokens: maxTokens,
    temperature: 0,
    messages: [
      {
        role: 'user' as const,
        content: [
          ...Array.from({ length: images }, (_, k) => ({
            type: 'image_url' as const,
            image_url: { url: pictures[(i + k) % pictures.length]! },
          })),
          { type: 'text' as const, text: `${run}, question ${i}: how many squares are there?` },
        ],
      },
    ],
  }));
}

/** @returns lines a second, and tokens, from sending the file to the last result */
async function byBatch(run: string): Promise<number> {
  const text = requests(run)
    .map((body, i) => JSON.stringify({ custom_id: `${i}`, method: 'POST', url: '/v1/chat/completions', body }))
    .join('\n');
  const startMs = performance.now();
  const file = await client.files.create({ file: await toFile(Buffer.from(text), 'input.jsonl'), purpose: 'batch' });
  const { id } = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (batch.status === 'completed') {
      if (batch.request_counts?.completed !== lines) throw new Error(`batch: ${JSON.stringify(batch.request_counts)}`);
      break;
    }
    if (batch.status === 'failed' || batch.status === 'expired') throw new Error(JSON.stringify(batch));
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return (lines / (performance.now() - startMs)) * 1000;
}

async function byClients(run: string): Promise<number> {
  const all = requests(run);
  let next = 0;
  const startMs = performance.now();
  await Promise.all(
    Array.from({ length: clients }, async () => {
      for (let body = all[next++]; body !== undefined; body = all[next++]) await client.chat.completions.create(body);
    }),
  );
  return (lines / (performance.now() - startMs)) * 1000;
}

const median = (of: readonly number[]) => of.toSorted((a, b) => a - b)[Math.floor(of.length / 2)]!;
try {
  await byClients('warm');
  const batch: number[] = [];
  const http: number[] = [];
  for (let round = 0; round < rounds; round++) {
    // Whoever goes first alternates.
    const arms = [
      async () => batch.push(await byBatch(`batch ${round}`)),
      async () => http.push(await byClients(`https ${round}`)),
    ];
    for (const arm of round % 2 === 0 ? arms : arms.reverse()) await arm();
    console.error(
      `round ${round}: batch ${batch.at(-1)?.toFixed(1)}, ${clients} clients ${http.at(-1)?.toFixed(1)} lines/s`,
    );
  }
  const ratios = batch.map((rate, i) => rate / http[i]!);
  const result = {
    bench: 'batches',
    lines,
    clients,
    maxTokens,
    images,
    batchLinesPerS: Number(median(batch).toFixed(1)),
    clientLinesPerS: Number(median(http).toFixed(1)),
    // Of the rounds, each of which has both arms side by side.
    ratio: Number(median(ratios).toFixed(3)),
    ratios: ratios.map((one) => Number(one.toFixed(3))),
    bar: 0.95,
  };
  console.log(JSON.stringify(result));
  if (result.ratio < result.bar) process.exitCode = 1;
} finally {
  await stopAndForget(product);
}
