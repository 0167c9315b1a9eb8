import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sha256File } from '../../../gpu-backend/io/digest.ts';
import { writeCheckpoint } from '../../../gpu-backend/models/load.ts';
import { initWeights, nanoConfig, parameterCount } from '../../../gpu-backend/models/presets.ts';
import type { DataExample } from '../../../gpu-backend/train/data/example.ts';
import { openAiRecord } from '../../../gpu-backend/train/data/export-record.ts';
import { importData } from '../../../gpu-backend/train/data/import.ts';
import type { ExampleStore } from '../../../gpu-backend/train/data/store.ts';
import type { FineTuneData } from '../../../gpu-backend/train/finetune-spec.ts';
import { nanoSpecialTokens, trainTokenizer } from '../../../gpu-backend/train/nano/vocabulary.ts';
import { formatRecipe, nanoRecipe } from '../../../gpu-backend/vision/recipes.ts';

/** How the conversations become examples: as they are, or every question with its answer and all pictures by itself. */
export type PackingData = 'whole' | 'questions';

/** Sizes of the model: 1.5 M parameters, small enough to learn a hundred conversations by heart on one core in minutes. */
const MODEL = {
  ...{ imageSize: 56, patchSize: 8, visionHidden: 64, visionLayers: 2, visionHeads: 4 },
  ...{ hidden: 128, layers: 3, heads: 4, kvHeads: 2, maxPositions: 4096 },
} as const;
const VOCABULARY = 3072;

const asData = async (path: string, id: string): Promise<FineTuneData> => ({
  spec: {
    files: [
      {
        file_id: id,
        file: { id, bytes: (await stat(path)).size, sha256: await sha256File(path) },
        filename: path.slice(path.lastIndexOf('/') + 1),
      },
    ],
    balancing: false,
  },
  paths: [path],
});

export interface PackingFiles {
  readonly baseDir: string;
  readonly parameters: number;
  readonly data: Readonly<Record<PackingData, FineTuneData>>;
  /** Lines of each file. */
  readonly lines: Readonly<Record<PackingData, number>>;
}

/**
 * Writes what the benchmark trains: the conversations in OpenAI's form, whole and question by question, and a small model of
 * Mantis's architecture with random weights, whose byte-pair tokenizer is trained on their text.
 * @param source folder of the conversations: `train.json` in Mantis-Instruct's form, pictures beside it
 */
export async function writePackingFiles(source: string, dir: string): Promise<PackingFiles> {
  const raw = await asData(join(source, 'train.json'), 'file-raw');
  const { store } = await importData(raw.spec, raw.paths, join(dir, 'raw'), { imageRoot: () => source });
  const texts: string[] = [];
  const lines: Record<PackingData, string[]> = { whole: [], questions: [] };
  for (let i = 0; i < store.length; i++) {
    const example = await store.get(i);
    for (const { parts } of example.messages) for (const part of parts) if (part.type === 'text') texts.push(part.text);
    lines.whole.push(await lineOf(store, example));
    for (const question of questionsOf(example)) lines.questions.push(await lineOf(store, question));
  }
  await store.close();
  const write = async (kind: PackingData): Promise<FineTuneData> => {
    const path = join(dir, `${kind}.jsonl`);
    await writeFile(path, `${lines[kind].join('\n')}\n`);
    return await asData(path, `file-${kind}`);
  };
  const data = { whole: await write('whole'), questions: await write('questions') };
  await rm(join(dir, 'raw'), { recursive: true, force: true });

  const tokenizer = trainTokenizer(texts, VOCABULARY, nanoSpecialTokens);
  const idOf = (token: string): number => {
    const id = tokenizer.added_tokens.find(({ content }) => content === token)?.id;
    if (id === undefined) throw new Error(`the tokenizer has no ${token}`);
    return id;
  };
  const config = nanoConfig({
    ...MODEL,
    vocab: VOCABULARY,
    imageToken: idOf('<image>'),
    bosToken: idOf('<|begin_of_text|>'),
    eosTokens: [idOf('<|end_of_text|>')],
    padToken: idOf('<|pad|>'),
  });
  const baseDir = join(dir, 'base');
  await mkdir(baseDir, { recursive: true });
  await writeCheckpoint(baseDir, { config, weights: initWeights(config, 7) });
  const json: Record<string, unknown> = {
    'tokenizer.json': tokenizer,
    'tokenizer_config.json': { mantis_template: 'nano' },
    'preprocessor_config.json': formatRecipe(nanoRecipe(MODEL.imageSize)),
    'generation_config.json': { max_new_tokens: 64 },
  };
  for (const [name, content] of Object.entries(json)) await writeFile(join(baseDir, name), JSON.stringify(content));
  return {
    baseDir,
    parameters: parameterCount(config),
    data,
    lines: { whole: lines.whole.length, questions: lines.questions.length },
  };
}

async function lineOf(store: ExampleStore, example: DataExample): Promise<string> {
  const urls: string[] = [];
  for (const reference of example.images) {
    const bytes = await store.readImage(reference);
    urls.push(`data:image/jpeg;base64,${Buffer.from(bytes).toString('base64')}`);
  }
  const written = openAiRecord(example, (image) => urls[image] ?? '');
  if (!('record' in written)) throw new Error(`example ${example.line} cannot be written`);
  return JSON.stringify(written.record);
}

/** Each question with its answer, behind the pictures of the conversation. */
function questionsOf(example: DataExample): DataExample[] {
  const { messages } = example;
  const pictures = example.images.map((_, image) => ({ type: 'image', image }) as const);
  return messages.flatMap((message, i) => {
    const answer = messages[i + 1];
    if (message.role !== 'user' || answer?.role !== 'assistant') return [];
    const text = message.parts.filter((part) => part.type === 'text');
    return [{ ...example, messages: [{ ...message, parts: [...pictures, ...text] }, answer] }];
  });
}
