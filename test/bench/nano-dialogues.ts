import { cpSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { sha256Hex } from '../../gpu-backend/io/digest.ts';
import { loadCheckpoint, writeCheckpoint } from '../../gpu-backend/models/load.ts';
import { initWeights } from '../../gpu-backend/models/presets.ts';
import type { FineTuneData } from '../../gpu-backend/train/finetune-spec.ts';
import type { NanoDialogue, NanoStream, Phase } from '../../gpu-backend/train/nano/samples.ts';
import { boxSidePx } from '../../gpu-backend/train/nano/scene.ts';

/** Dialogues of nano's generator as a chat file, and a nano that has to learn to see again: the data and the base of staged jobs. */

const bundled = join(import.meta.dirname, '../../gpu-backend/models/nano');

/** nano, whose projector has forgotten everything; left as it is where there is one already. */
export async function writeBlindNano(dir: string): Promise<string> {
  if (existsSync(join(dir, 'model.safetensors'))) return dir;
  cpSync(bundled, dir, { recursive: true });
  const { config, weights, unused } = loadCheckpoint(bundled);
  const fresh = initWeights(config, 77);
  for (const [name, tensor] of fresh) if (name.startsWith('multi_modal_projector.')) weights.set(name, tensor);
  await writeCheckpoint(dir, { config, weights, unused });
  return dir;
}

async function png(rgb: Uint8Array): Promise<string> {
  const raw = { width: boxSidePx, height: boxSidePx, channels: 3 } as const;
  const bytes = await sharp(rgb, { raw }).png().toBuffer();
  return `data:image/png;base64,${bytes.toString('base64')}`;
}

async function line({ images, turns }: NanoDialogue): Promise<string> {
  const urls = await Promise.all(images.map(png));
  const messages = turns.flatMap(({ user, assistant, weight }) => [
    {
      role: 'user',
      content: user.map((part) =>
        typeof part === 'string'
          ? { type: 'text', text: part }
          : { type: 'image_url', image_url: { url: urls[part.image] } },
      ),
    },
    { role: 'assistant', content: assistant, ...(weight === 0 ? { weight: 0 } : {}) },
  ]);
  return JSON.stringify({ messages });
}

/** The first dialogues of a stream as a file of a job. */
export async function writeDialogues(
  dir: string,
  name: string,
  stream: NanoStream,
  count: number,
): Promise<FineTuneData> {
  const path = join(dir, `${name}-${count}.jsonl`);
  const lines: string[] = [];
  for (let i = 0; i < count; i++) lines.push(await line(stream.dialogue(i)));
  const text = `${lines.join('\n')}\n`;
  writeFileSync(path, text);
  const file = { id: `file-${name}`, bytes: Buffer.byteLength(text), sha256: sha256Hex(Buffer.from(text)) };
  return { spec: { files: [{ file_id: file.id, file, filename: `${name}.jsonl` }], balancing: false }, paths: [path] };
}

const everything: Pick<Phase, 'until' | 'turns' | 'describeChance'> = {
  until: Number.POSITIVE_INFINITY,
  turns: [7, 11],
  describeChance: 0,
};
/** Pictures named and counted: what a projector learns from. */
export const NAMES: Phase = {
  ...everything,
  mix: { caption: 5, perception: 4 },
  eachShare: 0.5,
  describeChance: 0.4,
  ...{ statementSets: [1, 1, 2, 2, 3], skillSets: [2, 2, 3] },
};
/** Statements about sets of pictures, people's own among them. */
export const STATEMENTS: Phase = {
  ...everything,
  mix: { perception: 0.4, statements: 4, skills: 2, real: 3 },
  eachShare: 0.2,
  ...{ statementSets: [1, 2, 3, 3, 3, 3], skillSets: [2, 3, 3] },
};
