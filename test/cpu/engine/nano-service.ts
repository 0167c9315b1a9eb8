/** The model that ships with the product, served as the backend serves it. */
import { fileURLToPath } from 'node:url';
import { ModelPool } from '../../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../../gpu-backend/engine/model-service.ts';
import { capacityFor } from '../../../gpu-backend/engine/scheduler/capacity.ts';
import { DecodePool } from '../../../gpu-backend/vision/pool.ts';
import type { GenerateEvent, GenerateRequest } from '../../../shared/contract/backend.ts';

type Sampling = GenerateRequest['sampling'];

export const NANO_DIR = fileURLToPath(new URL('../../../gpu-backend/models/nano', import.meta.url));

export interface Choice {
  text: string;
  reason: string | null;
  readonly logprobs: { readonly token: string; readonly logprob: number; readonly bytes: readonly number[] }[];
}

export interface Told {
  readonly choices: readonly Choice[];
  readonly usage: { readonly promptTokens: number; readonly completionTokens: number } | null;
  readonly types: readonly string[];
}

let requests = 0;

export function ask(words: string, sampling: Partial<Sampling> = {}): GenerateRequest {
  return {
    requestId: `req_${requests++}`,
    tenant: 'b'.repeat(32),
    model: 'nano',
    messages: [{ role: 'user', parts: [{ type: 'text', text: words }] }],
    sampling: { maxTokens: 24, temperature: 0, topP: 1, stop: [], ...sampling },
    deadlineMs: 120_000,
  };
}

/** @param kvTokens positions of keys and values over all rows; few of them make rows give way to each other */
export async function serveNano(kvTokens = 16_384): Promise<{
  readonly service: EngineModelService;
  readonly tell: (request: GenerateRequest, blobs?: readonly Uint8Array[]) => Promise<Told>;
  readonly close: () => Promise<void>;
}> {
  const capacity = capacityFor({ maxRows: 8, kvTokens });
  const decoders = new DecodePool();
  const pool = new ModelPool({
    models: [{ id: 'nano', dir: NANO_DIR }],
    capacity,
    featureCacheBytes: 2 ** 24,
    maxOverlays: 1,
    fetchOverlay: async () => {
      throw new Error('no fine-tune is asked for');
    },
    onEngineDeath: (error) => {
      throw error;
    },
  });
  const service = new EngineModelService(pool, capacity, decoders);
  await pool.start();
  return {
    service,
    tell: (request, blobs = []) =>
      collect(service.generate(request, blobs, new AbortController().signal), request.sampling.choices ?? 1),
    close: async () => {
      await decoders.close();
      await pool.close();
    },
  };
}

async function collect(events: AsyncIterable<GenerateEvent>, count: number): Promise<Told> {
  const choices = Array.from({ length: count }, (): Choice => ({ text: '', reason: null, logprobs: [] }));
  let usage: Told['usage'] = null;
  const types: string[] = [];
  for await (const event of events) {
    types.push(event.type);
    if (event.type === 'started') continue;
    if (event.type === 'error') throw new Error(event.error.message);
    const choice = choices[event.index]!;
    if (event.type === 'delta') {
      choice.text += event.text;
      choice.logprobs.push(...(event.logprobs ?? []));
    } else choice.reason = event.finishReason;
    if (event.type === 'finished') ({ usage } = event);
  }
  return { choices, usage, types };
}
