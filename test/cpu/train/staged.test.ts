import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { checkpointName } from '../../../gpu-backend/train/checkpoint.ts';
import { runFineTune } from '../../../gpu-backend/train/finetune.ts';
import type { FineTuneMetrics, FineTuneSpec } from '../../../gpu-backend/train/finetune-spec.ts';
import { NanoStream } from '../../../gpu-backend/train/nano/samples.ts';
import type { Stage } from '../../../shared/contract/training.ts';
import { NAMES, STATEMENTS, writeBlindNano, writeDialogues } from '../../bench/nano-dialogues.ts';

const { real: _, ...made } = STATEMENTS.mix;
const statements = { ...STATEMENTS, mix: made };
const stage = (options: Partial<Stage> & Pick<Stage, 'train' | 'data'>): Stage => ({
  ...{ n_epochs: 1, batch_size: 4, learning_rate_multiplier: 1, packing: true },
  ...options,
});

/** Dialogues of one draw are few and their losses noisy: gains are summed over several. */
const SEEDS = [51, 61, 71] as const;

/** What staged-nlvr measures with NLVR and in minutes, with generated pictures and by the loss. */
test('from an untrained projector, LoRA at its default rate gains 90 % of what full tuning gains', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'mantis-staged-'));
  t.after(() => rm(dir, { recursive: true, force: true }));
  const baseDir = await writeBlindNano(join(dir, 'base'));
  const gains = { full: 0, lora: 0 };
  for (const seed of SEEDS) {
    const { start, full, lora } = await losses(join(dir, String(seed)), baseDir, seed);
    t.diagnostic(`seed ${seed}: loss ${start} after stage 1; full ${full}, LoRA ${lora}`);
    gains.full += start - full;
    gains.lora += start - lora;
  }
  assert.ok(gains.full > 0.1 * SEEDS.length, `full tuning gains ${gains.full} nats`);
  const share = gains.lora / gains.full;
  assert.ok(share >= 0.9, `LoRA gains ${share} of what full tuning gains`);
});

/** Validation losses, nats a token: after the projector's stage, and after tuning everything or a LoRA from there. */
async function losses(dir: string, baseDir: string, seed: number): Promise<Record<'start' | 'full' | 'lora', number>> {
  await mkdir(dir);
  const data = [
    await writeDialogues(dir, 'names', new NanoStream({ seed, phases: [NAMES] }), 48),
    await writeDialogues(dir, 'statements', new NanoStream({ seed: seed + 1, phases: [statements] }), 48),
  ];
  const heldOut = new NanoStream({ seed: seed + 2, phases: [statements] });
  const validation = await writeDialogues(dir, 'held-out', heldOut, 12);
  const run = async (name: string, spec: Pick<FineTuneSpec, 'stages' | 'tunedDir'>): Promise<FineTuneMetrics[]> => {
    const seen: FineTuneMetrics[] = [];
    const own = { workDir: join(dir, 'work'), outDir: join(dir, name), keep: 2 };
    const result = await runFineTune(
      { baseDir, data, validation, leftOut: [], seed: 1, checkpointEvery: 1000, ...own, ...spec },
      { onMetrics: (m) => void seen.push(m) },
    );
    assert.equal(result.outcome, 'succeeded', JSON.stringify(result));
    return seen.filter((m) => m.full_valid_loss !== undefined);
  };
  const lossOf = (m: FineTuneMetrics | undefined): number => m?.full_valid_loss ?? Number.NaN;
  const [aligned, lora] = await run('lora', {
    stages: [stage({ train: 'projector', data: 0 }), stage({ train: 'lora', data: 1 })],
  });
  const tunedDir = join(dir, 'lora', checkpointName(12));
  const [full] = await run('full', { tunedDir, stages: [stage({ train: 'full', data: 1 })] });
  return { start: lossOf(aligned), full: lossOf(full), lora: lossOf(lora) };
}
