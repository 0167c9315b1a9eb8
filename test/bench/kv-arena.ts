/**
 * Time of the KV arena's hot calls at the geometry of SmolLM2-135M (30 layers, 3 KV heads of 64), filled with data:
 * `node --import tsx test/bench/kv-arena.ts`. The last line is JSON, in milliseconds.
 */
import { KvArena } from '../../gpu-backend/engine/kv/arena.ts';
import type { KvShape } from '../../gpu-backend/engine/kv/span.ts';

const geometry = { layers: 30, kvHeads: 3, headDim: 64 };
const PREFIX_TOKENS = 784;

function fresh(rows: number, stride: number): { keys: Float32Array[]; values: Float32Array[] } {
  const numbers = () =>
    Float32Array.from({ length: rows * geometry.kvHeads * stride * geometry.headDim }, () => Math.random() * 2 - 1);
  return {
    keys: Array.from({ length: geometry.layers }, numbers),
    values: Array.from({ length: geometry.layers }, numbers),
  };
}

/** Median and best: on a busy machine the best says more about the code. */
interface Times {
  readonly median: number;
  readonly best: number;
}

function summary(times: readonly number[]): Times {
  const sorted = [...times].sort((a, b) => a - b);
  const rounded = (ms: number) => Math.round(ms * 1000) / 1000;
  return { median: rounded(sorted[sorted.length >> 1]!), best: rounded(sorted[0]!) };
}

function measure(times: number, run: () => void, reset: () => void = () => {}): Times {
  const taken: number[] = [];
  for (let round = 0; round < times; round++) {
    const start = performance.now();
    run();
    taken.push(performance.now() - start);
    reset();
  }
  return summary(taken);
}

function filled(shape: KvShape, rows: number, tokens: number): KvArena {
  const arena = new KvArena(shape);
  arena.ensureCapacity(tokens);
  const chunk = 128;
  const numbers = fresh(1, chunk);
  for (let slot = 0; slot < rows; slot++) {
    arena.addRow();
    for (let at = 0; at < tokens; at += chunk)
      arena.append(slot, Math.min(chunk, tokens - at), { ...numbers, batchRow: 0, stride: chunk });
  }
  return arena;
}

const results: Record<string, Times> = {};
for (const format of ['f32', 'int8'] as const)
  for (const tokens of [128, 1984]) {
    const shape = { ...geometry, format };
    const arena = filled(shape, 8, tokens);
    arena.ensureCapacity(tokens + 64);
    const step = fresh(8, 1);
    const name = `${format}_ctx${tokens}`;
    results[`${name}_append_B8`] = measure(
      60,
      () => {
        for (let slot = 0; slot < 8; slot++) arena.append(slot, 1, { ...step, batchRow: slot, stride: 1 });
      },
      () => {
        if (arena.length(0) === arena.capacityTokens) for (let slot = 0; slot < 8; slot++) arena.truncate(slot, 60);
      },
    );
    for (let slot = 0; slot < 8; slot++) arena.truncate(slot, arena.length(slot) - tokens);
    results[`${name}_bias_B8`] = measure(50, () => arena.biasFor(0, 8));
    results[`${name}_swap`] = measure(9, () => arena.swapRows(1, 6));
    const grow: number[] = [];
    for (let round = 0; round < 5; round++) {
      arena.ensureCapacity(arena.capacityTokens + 1);
      const start = performance.now();
      arena.ensureCapacity(arena.capacityTokens + 1);
      grow.push(performance.now() - start);
    }
    results[`${name}_grow_B8`] = summary(grow);
    results[`${name}_remove_B8`] = measure(
      5,
      () => arena.removeRow(0),
      () => arena.addRow(),
    );
  }
for (const format of ['f32', 'int8'] as const) {
  const arena = filled({ ...geometry, format }, 2, 1024);
  const chunk = fresh(1, 128);
  arena.truncate(1, 1024);
  results[`${format}_append_chunk128`] = measure(
    20,
    () => arena.append(1, 128, { ...chunk, batchRow: 0, stride: 128 }),
    () => arena.truncate(1, 128),
  );
  results[`${format}_save784`] = measure(15, () => arena.save(0, 0, PREFIX_TOKENS));
  const span = arena.save(0, 0, PREFIX_TOKENS);
  results[`${format}_restore784`] = measure(
    15,
    () => arena.restore(1, span, 0, PREFIX_TOKENS),
    () => arena.truncate(1, PREFIX_TOKENS),
  );
}
for (const [name, ms] of Object.entries(results))
  console.log(`${name.padEnd(28)} median ${ms.median} ms, best ${ms.best} ms`);
console.log(JSON.stringify({ bench: 'kv-arena', unit: 'ms', ...results }));
