/** Lays the questions of a benchmark out on disk. Reads files that clients have uploaded: it runs in a process that may be killed. */
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { BenchmarkRunSource } from '../../../../shared/contract/evalBenchmarks.ts';
import { applyVariant, type VariantsAsked, variantsFor } from '../../../eval/controls.ts';
import { partOf } from '../../../eval/run/part.ts';
import { NotAskable, requireAskable } from '../../../eval/run/preflight.ts';
import { formPrompt, type PromptForm } from '../../../eval/run/prompt-form.ts';
import { evalSpec } from '../../../eval/run/run.ts';
import { sampleRecords } from '../../../eval/source/sample.ts';
import type { EvalImage, EvalPrompt, EvalRecord, EvalTask, EvalVariant } from '../../../eval/task.ts';
import { LAID, type LaidOut, type LaidPrompt, type LaidQuestion, type LaidRecord } from './laid.ts';

/** The files, or what is asked of them, are at fault: nobody else would fare better. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  constructor(
    message: string,
    readonly param: string,
  ) {
    super(message);
  }
}

const WISHES = { rotate: 'rotate_options', shuffled: 'controls', answerBy: 'answer_by' } as const;

/**
 * @param folder the uploaded files, by the paths they were uploaded with
 * @param into made; filled with the files of `LAID`
 * @throws Refusal naming the field of the request that is at fault
 */
export async function layOut(
  task: EvalTask,
  options: BenchmarkRunSource,
  folder: string,
  into: string,
): Promise<LaidOut> {
  const asked: VariantsAsked = {
    orders: options.image_orders ?? 'protocol',
    rotate: options.rotate_options === true,
    controls: options.controls ?? [],
  };
  const form: PromptForm = { mode: options.mode ?? 'sequence' };
  const split = options.split === undefined ? {} : { split: options.split };
  const reading = <T>(work: () => Promise<T>): Promise<T> =>
    work().catch((error: unknown) => {
      if (error instanceof NotAskable)
        // Whoever hears it puts the name of the task in front.
        throw new Refusal(error.message.replace(/^task [\w-]+: /, ''), `data_source.${WISHES[error.wish]}`);
      // What readers throw is about the files, and says which.
      const message = error instanceof Error ? error.message : String(error);
      throw new Refusal(
        // Readers speak to the command line too.
        message.replaceAll(`${folder}/`, '').replaceAll(folder, 'the uploaded files').replaceAll('--split', '`split`'),
        'data_source.file_ids',
      );
    });
  const read = await reading(() =>
    task.open({
      paths: [folder],
      imageFolder: folder,
      ...split,
      ...(options.max_items === undefined ? {} : { limit: options.max_items }),
    }),
  );
  const { sample } = options;
  const records =
    sample === undefined
      ? read
      : await reading(() =>
          sampleRecords(read, {
            count: sample.records,
            seed: sample.seed ?? 0,
            byGroup: task.aggregate === 'groups',
          }),
        );
  const count = Math.min(options.max_items ?? records.length, records.length);
  const out = await Output.open(into);
  try {
    const { strangers } = await reading(() => requireAskable(task, records, asked, count));
    const part = await reading(() => partOf(task, records, { ...split, limit: count }));
    const spec = evalSpec({ task, records, asked, form, limit: count, part });
    let index = 0;
    let counted = 0;
    for (let place = 0; place < count; place++) {
      const record = await reading(() => records.get(place));
      await out.record(record);
      for (const variant of variantsFor(record, asked, task)) {
        const stranger =
          variant.control === 'shuffled' && strangers !== null
            ? await reading(() => records.get(strangers.indexFor(place)))
            : undefined;
        const isCounted = isOfProtocol(variant, task) && record.answers.length > 0;
        if (isCounted) counted++;
        const head = {
          index: index++,
          variant,
          isCounted,
          criterion: isCounted ? task.name : `${task.name}, ${besideOf(variant, task)}`,
          question: record.question,
        };
        await out.question(head, record, async () => {
          const { record: shown, prompt } = await applyVariant(task, record, variant, stranger);
          return { shown, prompt: formPrompt(prompt, form) };
        });
      }
    }
    const whole = split.split === undefined ? spec : { ...spec, protocol: { ...spec.protocol, ...split } };
    return { spec: whole, title: task.title, questions: index, counted };
  } finally {
    await out.close();
    await records.close();
  }
}

/** As a report's headline has it. */
function isOfProtocol(variant: EvalVariant, task: Pick<EvalTask, 'imageOrders'>): boolean {
  if (variant.control !== 'none' || (variant.optionRotation ?? 0) !== 0) return false;
  return variant.imageOrder === undefined || task.imageOrders !== undefined;
}

/** What is summed apart from the benchmark's own questions, in words. */
function besideOf(variant: EvalVariant, task: Pick<EvalTask, 'imageOrders'>): string {
  if (variant.control !== 'none') return variant.control;
  if ((variant.optionRotation ?? 0) !== 0) return 'options rotated';
  return isOfProtocol(variant, task) ? 'without a published answer' : 'other image orders';
}

class Output {
  private end = 0;
  private readonly written = new Set<string>();

  private constructor(private readonly files: Readonly<Record<keyof typeof LAID, FileHandle>>) {}

  static async open(folder: string): Promise<Output> {
    await mkdir(folder, { recursive: true });
    const at = (name: keyof typeof LAID) => open(join(folder, LAID[name]), 'w');
    return new Output({
      questions: await at('questions'),
      records: await at('records'),
      pictures: await at('pictures'),
      index: await at('index'),
    });
  }

  async record(record: EvalRecord): Promise<void> {
    // A report shows what it can; a question that needs the picture has the fault.
    for (const image of record.images) await this.picture(image).catch(() => {});
    await this.files.records.appendFile(`${JSON.stringify(laid(record))}\n`);
  }

  /** @param make the question as it is shown; what it throws is this question's fault alone */
  async question(
    head: Pick<LaidQuestion, 'index' | 'variant' | 'isCounted' | 'criterion' | 'question'>,
    record: EvalRecord,
    make: () => Promise<{ readonly shown: EvalRecord; readonly prompt: EvalPrompt }>,
  ): Promise<void> {
    let question: LaidQuestion;
    try {
      const { shown, prompt } = await make();
      for (const image of prompt.images) await this.picture(image);
      const { system, parts, maxTokens, choices } = prompt;
      const asked: LaidPrompt = {
        ...(system === undefined ? {} : { system }),
        parts,
        maxTokens,
        ...(choices === undefined ? {} : { choices }),
        images: prompt.images.map(({ sha256 }) => sha256),
      };
      question = { ...head, shown: laid(shown), prompt: asked };
    } catch (error) {
      const fault = error instanceof Error ? error.message : String(error);
      question = { ...head, shown: laid(record), fault };
    }
    await this.files.questions.appendFile(`${JSON.stringify(question)}\n`);
  }

  async picture(image: EvalImage): Promise<void> {
    if (this.written.has(image.sha256)) return;
    const bytes = await image.bytes();
    await this.files.pictures.appendFile(bytes);
    await this.files.index.appendFile(`${JSON.stringify([image.sha256, this.end, bytes.byteLength])}\n`);
    this.end += bytes.byteLength;
    this.written.add(image.sha256);
  }

  async close(): Promise<void> {
    for (const file of Object.values(this.files)) await file.close();
  }
}

function laid(record: EvalRecord): LaidRecord {
  return { ...record, images: record.images.map(({ sha256 }) => sha256) };
}
