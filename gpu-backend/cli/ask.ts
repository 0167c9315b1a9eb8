import { extname } from 'node:path';
import { Command } from 'commander';
import type { MantisClient } from '../../shared/client/client.ts';
import type { ChatRequest } from '../../shared/contract/chat.ts';
import type { PrecisionRequest } from '../engine/precision.ts';
import { type ApiOptions, apiOptions, readUserFile, withApi } from './api.ts';
import { askLocal } from './ask-local.ts';
import { CliError } from './error.ts';
import { collect, wholeNumber, within } from './parse.ts';
import { precisionOptions } from './precision.ts';

export interface AskOptions extends ApiOptions {
  readonly image: string[];
  readonly model: string;
  readonly local?: string;
  readonly adapter?: string;
  readonly maxTokens?: number;
  readonly temperature: number;
  readonly seed?: number;
  readonly system?: string;
  readonly precision: string;
  readonly kv: PrecisionRequest['kv'];
}

const MIME_OF: Readonly<Record<string, string>> = {
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.webp': 'image/webp',
  '.gif': 'image/gif',
  '.avif': 'image/avif',
};

/** `mantis ask`: one question about any number of images, answered as it is written. */
export function askCommand(): Command {
  const command = new Command('ask')
    .description('ask a question about images; they come first, in the given order, as image 1, image 2, …')
    .argument('<question>', 'the question')
    .option('-i, --image <file>', 'an image; repeat for more', collect, [])
    .option('-m, --model <id>', 'model to ask', 'mantis-nano')
    .option(
      '--local <folder>',
      'answer in this process, on the processor, from a checkpoint folder, without any server',
    )
    .option('--adapter <folder>', 'with --local: a PEFT adapter folder to lay over the checkpoint')
    .option('--max-tokens <n>', 'longest answer', wholeNumber)
    .option('--temperature <t>', '0 = always the most likely token', within(0, 2), 0)
    .option('--seed <n>', 'same seed, same answer', wholeNumber)
    .option('--system <text>', 'system message');
  for (const option of [...precisionOptions(), ...apiOptions()]) command.addOption(option);
  return command.action(async (question: string, options: AskOptions) => {
    if (options.adapter !== undefined && options.local === undefined)
      throw new CliError('--adapter goes with --local; a server is told of adapters by MANTIS_MODELS', 2);
    if (options.local === undefined) await withApi(options, (api) => print(askApi(api, question, options)));
    else await print(askLocal(question, options.local, options));
  });
}

async function print(answer: AsyncIterable<string>): Promise<void> {
  for await (const text of answer) process.stdout.write(text);
  process.stdout.write('\n');
}

async function* askApi(api: MantisClient, question: string, options: AskOptions): AsyncGenerator<string> {
  const images = await Promise.all(
    options.image.map(async (file) => {
      const mime = MIME_OF[extname(file).toLowerCase()];
      if (mime === undefined)
        throw new CliError(`${file}: expected an image named .png, .jpg, .webp, .gif or .avif`, 2);
      const base64 = (await readUserFile(file)).toString('base64');
      return { type: 'image_url' as const, image_url: { url: `data:${mime};base64,${base64}` } };
    }),
  );
  const messages: ChatRequest['messages'] = [{ role: 'user', content: [...images, { type: 'text', text: question }] }];
  if (options.system !== undefined) messages.unshift({ role: 'system', content: options.system });
  const chunks = api.chat.stream({
    model: options.model,
    temperature: options.temperature,
    messages,
    ...(options.maxTokens === undefined ? {} : { max_completion_tokens: options.maxTokens }),
    ...(options.seed === undefined ? {} : { seed: options.seed }),
  });
  for await (const chunk of chunks) yield chunk.choices[0]?.delta.content ?? '';
}
