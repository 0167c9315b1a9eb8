import { ApiError } from '../../shared/contract/errors.ts';
import { ModelPool } from '../engine/model-pool.ts';
import { EngineModelService } from '../engine/model-service.ts';
import { choosePrecision } from '../engine/precision-choice.ts';
import { capacityFor } from '../engine/scheduler/capacity.ts';
import { DecodePool } from '../vision/pool.ts';
import { readUserFile } from './api.ts';
import type { AskOptions } from './ask.ts';
import { CliError } from './error.ts';
import { readPrecision, tablesFolder } from './precision.ts';

const MODEL = 'local';
const THREADS = 1;
/** One row, as long as the model's context may be. */
const CAPACITY = capacityFor({ maxRows: 1, kvTokens: 131_072 });

/** Answers in this process: the engine of the server, without the server. */
export async function* askLocal(question: string, dir: string, options: AskOptions): AsyncGenerator<string> {
  const images = await Promise.all(options.image.map(readUserFile));
  const { storage, kv } = await choosePrecision(readPrecision(options), {
    dirs: [dir],
    device: 'cpu',
    threads: THREADS,
    maxRows: CAPACITY.maxRows,
    tables: tablesFolder(),
  });
  const pool = new ModelPool({
    models: [{ id: MODEL, dir, ...(options.adapter === undefined ? {} : { adapterDir: options.adapter }) }],
    capacity: CAPACITY,
    compile: { threads: THREADS, kv, ...(storage === undefined ? {} : { storage }) },
    featureCacheBytes: 0,
    maxOverlays: 0,
    fetchOverlay: () => Promise.reject(new CliError('fine-tuned models need the server', 2)),
    onEngineDeath: () => {},
  });
  const decoders = new DecodePool();
  try {
    await pool.start();
    const events = new EngineModelService(pool, CAPACITY, decoders).generate(
      {
        requestId: MODEL,
        model: MODEL,
        messages: [
          ...(options.system === undefined
            ? []
            : [{ role: 'system' as const, parts: [{ type: 'text' as const, text: options.system }] }]),
          {
            role: 'user',
            parts: [...images.map((_, blob) => ({ type: 'image' as const, blob })), { type: 'text', text: question }],
          },
        ],
        sampling: {
          maxTokens: options.maxTokens ?? null,
          temperature: options.temperature,
          topP: 1,
          stop: [],
          ...(options.seed === undefined ? {} : { seed: options.seed }),
        },
        deadlineMs: 3_600_000,
      },
      images,
      new AbortController().signal,
    );
    for await (const event of events) if (event.type === 'delta') yield event.text;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    // The engine speaks of parts; on a command line they are files.
    const message = error.message.replace(
      /messages\[\d\]\.parts\[(\d+)\]/,
      (part, index) => options.image[Number(index)] ?? part,
    );
    throw new CliError(message, 2);
  } finally {
    await decoders.close();
    await pool.close();
  }
}
