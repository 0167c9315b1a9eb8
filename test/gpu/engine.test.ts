import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import sharp from 'sharp';
import { ModelPool } from '../../gpu-backend/engine/model-pool.ts';
import { EngineModelService } from '../../gpu-backend/engine/model-service.ts';
import { capacityFor } from '../../gpu-backend/engine/scheduler/capacity.ts';
import type { Placement } from '../../gpu-backend/runtime/device.ts';
import { DecodePool } from '../../gpu-backend/vision/pool.ts';
import type { GenerateRequest } from '../../shared/contract/backend.ts';
import { testDevices } from './device.ts';

const NANO = join(import.meta.dirname, '../../gpu-backend/models/nano');
const capacity = capacityFor({ maxRows: 4, kvTokens: 4096 });

const QUESTIONS = [
  'how many shapes are in image 1?',
  'describe image 2',
  'is there a circle in image 1?',
  'describe image 1',
];

/** Answers of nano to questions about two pictures, asked at once, from an engine thread that runs on a device. */
async function answers(blobs: readonly Uint8Array[], placement?: Placement): Promise<string[]> {
  const decoders = new DecodePool();
  const pool = new ModelPool({
    models: [{ id: 'nano', dir: NANO }],
    capacity,
    compile: { threads: 1, kv: 'f32', ...(placement === undefined ? {} : { placement }) },
    featureCacheBytes: 2 ** 20,
    maxOverlays: 1,
    fetchOverlay: async () => assert.fail('no fine-tune is asked for'),
    onEngineDeath: (error) => assert.fail(error.message),
  });
  const service = new EngineModelService(pool, capacity, decoders);
  try {
    await pool.start();
    return await Promise.all(
      QUESTIONS.map(async (text, i) => {
        const request: GenerateRequest = {
          requestId: `question ${i}`,
          tenant: 'a'.repeat(32),
          model: 'nano',
          messages: [
            {
              role: 'user',
              parts: [
                { type: 'image', blob: 0 },
                { type: 'image', blob: 1 },
                { type: 'text', text },
              ],
            },
          ],
          sampling: { maxTokens: 12, temperature: 0, topP: 1, stop: [] },
          deadlineMs: 120_000,
        };
        let answer = '';
        for await (const event of service.generate(request, blobs, new AbortController().signal))
          if (event.type === 'delta') answer += event.text;
        return answer;
      }),
    );
  } finally {
    await decoders.close();
    await pool.close();
  }
}

for (const { device, placement, skip } of await testDevices())
  test(`${device}: the engine answers as on the processor`, { skip }, async () => {
    const dir = await mkdtemp(join(tmpdir(), 'mantis-gpu-'));
    try {
      const blobs = await Promise.all(
        ['#1428e6', '#f0dc1e'].map((background) =>
          sharp({ create: { width: 100, height: 100, channels: 3, background } })
            .png()
            .toBuffer(),
        ),
      );
      const want = await answers(blobs);
      const got = await answers(blobs, placement);
      assert.ok(want.every((answer) => answer.length > 0));
      assert.deepEqual(got, want);
      console.log(`# ${device}: ${QUESTIONS.length} questions about two pictures in one batch: ${got.join(' | ')}`);
    } finally {
      await rm(dir, { recursive: true });
    }
  });
