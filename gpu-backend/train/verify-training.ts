import { canonicalName } from '../models/names.ts';
import { type TrainMode, trainGraph } from '../models/train-graph.ts';
import {
  batchFeeds,
  expectedFloats,
  maxAbsolute,
  maxAbsoluteDifference,
  type ReferenceCase,
  readReferenceCase,
  supervisionFeeds,
  type TrainTrace,
  weightFeeds,
} from '../models/verify-case.ts';
import { Session, type Tensor } from '../runtime/session.ts';
import type { VerifyRow } from '../text/verify-tokenizer.ts';
import { ParameterState } from './state.ts';

/** The optimizer of the reference runs: torch.optim.AdamW on every trained tensor, global-norm clip at 1. */
const LEARNING_RATE = 1e-3;
const UPDATE = { adamw: { weightDecay: 0.01 }, maxNorm: 1, decay: 'all' } as const;

function worstRelative(got: readonly number[], want: readonly number[]): number {
  return want.reduce((max, x, i) => Math.max(max, Math.abs((got[i] ?? Number.NaN) / x - 1)), 0);
}

async function verifyMode(reference: ReferenceCase, mode: TrainMode, trace: TrainTrace): Promise<VerifyRow[]> {
  const { config, weights } = reference.checkpoint;
  const tolerance = reference.file.tolerance.train_rel ?? 2e-3;
  const usesLora = mode === 'lora';
  if (usesLora && reference.adapter === undefined)
    throw new Error(
      `${reference.name}: the lora run starts from the adapter in ${reference.name}-lora, which is not there`,
    );
  const model = trainGraph(config, {
    train: mode,
    images: 'pixels',
    keyBias: true,
    ...(usesLora && reference.adapter !== undefined ? { lora: reference.adapter.lora } : {}),
  });
  const all = new Map<string, Tensor>([...weights, ...(reference.adapter?.weights ?? [])]);
  const state = new ParameterState(model.trainable.map((name) => ({ name, shape: model.weights.get(name) ?? [] })));
  for (const p of state.parameters) {
    p.value.set(all.get(p.name)?.data as Float32Array);
    all.set(p.name, { dtype: 'f32', shape: p.shape, data: p.value });
  }
  const feeds = { ...weightFeeds(model.weights, all), ...batchFeeds(reference), ...supervisionFeeds(reference) };
  const session = await Session.create(model.graph);
  const losses: number[] = [];
  const norms: number[] = [];
  try {
    for (let step = 0; step < trace.loss.length; step++) {
      const results = await session.run(feeds);
      state.zeroGradients();
      for (const name of model.trainable) state.addGradient(name, results[`grad.${name}`]?.data as Float32Array);
      losses.push(Number(results.loss?.data[0]));
      norms.push(state.update(LEARNING_RATE, UPDATE).norm);
    }
  } finally {
    await session.release();
  }
  const prefix = `train.${mode}.`;
  let weightError = 0;
  for (const key of reference.expected.keys()) {
    if (!key.startsWith(prefix)) continue;
    const want = expectedFloats(reference, key);
    const got = state.get(canonicalName(key.slice(prefix.length))).value;
    const error = maxAbsoluteDifference(got, want) / maxAbsolute(want);
    if (!(error <= weightError)) weightError = error;
  }
  const row = (expectation: string, error: number): VerifyRow => ({
    case: reference.name,
    expectation,
    error,
    tolerance,
    ok: error <= tolerance,
  });
  return [
    row(`${prefix}loss`, worstRelative(losses, trace.loss)),
    row(`${prefix}grad_norm`, worstRelative(norms, trace.grad_norm)),
    row(`${prefix}weights`, weightError),
  ];
}

/**
 * Repeats the training runs that a reference folder records (three AdamW steps for `projector`, `full`, `lora`) and compares
 * losses, gradient norms and the trained tensors. Errors are relative: to the recorded number, to a tensor's largest value.
 */
export async function verifyTraining(dir: string): Promise<VerifyRow[]> {
  const reference = readReferenceCase(dir);
  const rows: VerifyRow[] = [];
  for (const [mode, trace] of Object.entries(reference.file.train ?? {})) {
    if (mode !== 'projector' && mode !== 'full' && mode !== 'lora')
      throw new Error(`${dir}: case.json records the training run "${mode}", known are projector, full, lora`);
    rows.push(...(await verifyMode(reference, mode, trace)));
  }
  return rows;
}
