import type { VariantsAsked } from '../eval/controls.ts';
import { applyVariant, variantsFor } from '../eval/controls.ts';
import { requireAskable } from '../eval/run/preflight.ts';
import { formPrompt, type PromptForm } from '../eval/run/prompt-form.ts';
import type { EvalImage, EvalPrompt } from '../eval/task.ts';
import { decodeImage } from '../vision/decode.ts';
import { CliError } from './error.ts';
import type { OpenedTask } from './eval-task.ts';

/** English text comes to about so many characters a token. */
const CHARS_A_TOKEN = 4;
const SHOWN_BROKEN = 10;

/**
 * What a run would ask, without asking: every prompt is built and every picture decoded once, so that what is broken is found here.
 * @throws CliError where pictures cannot be decoded
 */
export async function dryRun(
  { task, records, part }: OpenedTask,
  asked: VariantsAsked,
  form: PromptForm,
  onProgress: (done: number, total: number) => void,
): Promise<void> {
  const { total } = await requireAskable(task, records, asked, records.length);
  const looked = new Set<string>();
  const broken: string[] = [];
  let first: EvalPrompt | null = null;
  let [questions, pictures, chars, answerTokens] = [0, 0, 0, 0];
  for (let index = 0; index < records.length; index++) {
    const record = await records.get(index);
    for (const [place, image] of record.images.entries()) {
      if (looked.has(image.sha256)) continue;
      looked.add(image.sha256);
      const why = await faultOf(image);
      if (why !== null) broken.push(`${record.id}, picture ${place + 1}: ${why}`);
    }
    const variants = variantsFor(record, asked, task);
    // Controls change pictures, not their number, but for `text-only`.
    const { prompt } = await applyVariant(task, record, { control: 'none' });
    const sent = formPrompt(prompt, form);
    first ??= sent;
    questions += variants.length;
    pictures += sent.images.length * variants.filter(({ control }) => control !== 'text-only').length;
    chars += charsOf(sent) * variants.length;
    answerTokens += (sent.choices === undefined ? sent.maxTokens : 0) * variants.length;
    onProgress(questions, total);
  }
  const whole =
    part === null ? '' : `, a part of the benchmark${part.published === null ? '' : ` of ${part.published}`}`;
  const lines = [
    `${task.title}: ${records.length} records${whole}`,
    `  questions  ${questions.toLocaleString('en-US')}`,
    `  pictures   ${pictures.toLocaleString('en-US')} sent, ${looked.size.toLocaleString('en-US')} different`,
    `  text       about ${Math.ceil(chars / CHARS_A_TOKEN).toLocaleString('en-US')} tokens, beside the pictures`,
    `  answers    at most ${answerTokens.toLocaleString('en-US')} tokens`,
    '',
    ...(first === null ? [] : ['The first prompt:', ...shown(first)]),
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
  if (broken.length > 0)
    throw new CliError(
      `${broken.length} of ${looked.size} pictures cannot be decoded:\n${broken.slice(0, SHOWN_BROKEN).join('\n')}${broken.length > SHOWN_BROKEN ? '\n…' : ''}`,
      2,
    );
}

const charsOf = ({ system = '', parts }: EvalPrompt): number =>
  system.length + parts.reduce((sum, part) => sum + (typeof part === 'string' ? part.length : 0), 0);

/** What a prompt says, pictures as `[picture 1]`. Control characters of a data set do not reach the terminal. */
function shown({ system, parts, choices, maxTokens }: EvalPrompt): string[] {
  const text = parts.map((part) => (typeof part === 'string' ? part : `[picture ${part.image + 1}]`)).join('\n');
  const end =
    choices === undefined ? `(an answer of at most ${maxTokens} tokens)` : `(compared: ${choices.join(', ')})`;
  const all = [...(system === undefined ? [] : [`system: ${system}`]), text, end].join('\n');
  return all.split('\n').map((line) => `  ${line.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, '�')}`);
}

/** Why a picture cannot be decoded, null where it can. */
async function faultOf(image: EvalImage): Promise<string | null> {
  try {
    await decodeImage(await image.bytes());
    return null;
  } catch (error) {
    return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  }
}
