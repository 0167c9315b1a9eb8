/**
 * The decoder as a GGUF file for llama.cpp, with every matrix in one format ("pure"), which is also its fastest file.
 * Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks: ggml/src/ggml-quants.c of llama.cpp.
 */
import { closeSync, existsSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFloat16 } from '../../../gpu-backend/io/half.ts';
import { BENCH_CONFIG, CACHE } from './model.ts';
import { DecoderWeights } from './weights.ts';

export type GgufFormat = 'q4_0' | 'q8_0';

const BLOCK = 32;
const ALIGNMENT = 32;
const TYPE = { f32: 0, q4_0: 2, q8_0: 8 } as const;
const FILE_TYPE = { q4_0: 2, q8_0: 7 } as const;

class Bytes {
  readonly #parts: Uint8Array[] = [];
  length = 0;

  raw(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    this.length += bytes.length;
    return this;
  }

  u32(value: number): this {
    return this.raw(new Uint8Array(Uint32Array.of(value).buffer));
  }

  u64(value: number): this {
    return this.raw(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }

  text(value: string): this {
    const bytes = new TextEncoder().encode(value);
    return this.u64(bytes.length).raw(bytes);
  }

  pad(): this {
    return this.raw(new Uint8Array((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT));
  }

  finish(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

/** 32 values as one f16 scale and 16 bytes; value j in the low half of byte j, value j + 16 in the high half. */
function quantizeQ4(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const out = new Uint8Array(blocks * 18);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    let extreme = 0;
    for (let j = 0; j < BLOCK; j++) {
      const x = values[b * BLOCK + j]!;
      if (Math.abs(x) > Math.abs(extreme)) extreme = x;
    }
    const scale = extreme / -8;
    scales[b] = scale;
    const inverse = scale === 0 ? 0 : 1 / scale;
    const quant = (j: number): number => Math.min(15, Math.trunc(values[b * BLOCK + j]! * inverse + 8.5));
    for (let j = 0; j < 16; j++) out[b * 18 + 2 + j] = quant(j) | (quant(j + 16) << 4);
  }
  return withScales(out, encodeFloat16(scales), 18);
}

/** 32 values as one f16 scale and 32 signed bytes. */
function quantizeQ8(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const out = new Uint8Array(blocks * 34);
  const scales = new Float32Array(blocks);
  for (let b = 0; b < blocks; b++) {
    let most = 0;
    for (let j = 0; j < BLOCK; j++) most = Math.max(most, Math.abs(values[b * BLOCK + j]!));
    const scale = most / 127;
    scales[b] = scale;
    for (let j = 0; j < BLOCK; j++)
      out[b * 34 + 2 + j] = scale === 0 ? 0 : Math.round(values[b * BLOCK + j]! / scale) & 0xff;
  }
  return withScales(out, encodeFloat16(scales), 34);
}

function withScales(out: Uint8Array, scales: Uint16Array, bytesPerBlock: number): Uint8Array {
  for (const [b, bits] of scales.entries()) {
    out[b * bytesPerBlock] = bits & 0xff;
    out[b * bytesPerBlock + 1] = bits >> 8;
  }
  return out;
}

/** llama.cpp rotates neighbouring pairs where Hugging Face rotates the halves of a head: rows (half, i) → (i, half). */
function interleaved(weight: Float32Array, heads: number, headDim: number): Float32Array {
  const width = weight.length / (heads * headDim);
  const out = new Float32Array(weight.length);
  for (let head = 0; head < heads; head++)
    for (let row = 0; row < headDim; row++) {
      const from = head * headDim + (row % 2) * (headDim / 2) + Math.floor(row / 2);
      out.set(weight.subarray(from * width, (from + 1) * width), (head * headDim + row) * width);
    }
  return out;
}

interface Entry {
  readonly name: string;
  /** [out, in] or [size]. */
  readonly shape: readonly number[];
  readonly type: keyof typeof TYPE;
  readonly read: () => Float32Array;
}

function entries(weights: DecoderWeights, format: GgufFormat): Entry[] {
  const { hidden: D, intermediate: F, heads, kvHeads, headDim, vocab, layers } = BENCH_CONFIG.text;
  const norm = (name: string, from: string): Entry => ({
    name: `${name}.weight`,
    shape: [D],
    type: 'f32',
    read: () => weights.read(from),
  });
  const matrix = (name: string, from: string, shape: readonly number[], change = (x: Float32Array) => x): Entry => ({
    name: `${name}.weight`,
    shape,
    type: format,
    read: () => change(weights.read(from)),
  });
  const perLayer = Array.from({ length: layers }, (_, i) => {
    const [to, from] = [`blk.${i}`, `layers.${i}`];
    return [
      norm(`${to}.attn_norm`, `${from}.input_layernorm`),
      matrix(`${to}.attn_q`, `${from}.self_attn.q_proj`, [heads * headDim, D], (x) => interleaved(x, heads, headDim)),
      matrix(`${to}.attn_k`, `${from}.self_attn.k_proj`, [kvHeads * headDim, D], (x) =>
        interleaved(x, kvHeads, headDim),
      ),
      matrix(`${to}.attn_v`, `${from}.self_attn.v_proj`, [kvHeads * headDim, D]),
      matrix(`${to}.attn_output`, `${from}.self_attn.o_proj`, [D, heads * headDim]),
      norm(`${to}.ffn_norm`, `${from}.post_attention_layernorm`),
      matrix(`${to}.ffn_gate`, `${from}.mlp.gate_proj`, [F, D]),
      matrix(`${to}.ffn_up`, `${from}.mlp.up_proj`, [F, D]),
      matrix(`${to}.ffn_down`, `${from}.mlp.down_proj`, [D, F]),
    ];
  });
  return [matrix('token_embd', 'embed_tokens', [vocab, D]), norm('output_norm', 'norm'), ...perLayer.flat()];
}

function metadata(format: GgufFormat): { readonly bytes: Bytes; readonly count: number } {
  const { text } = BENCH_CONFIG;
  const bytes = new Bytes();
  let count = 0;
  const string = (key: string, value: string): void => {
    bytes.text(key).u32(8).text(value);
    count++;
  };
  const integer = (key: string, value: number): void => {
    bytes.text(key).u32(4).u32(value);
    count++;
  };
  const float = (key: string, value: number): void => {
    bytes
      .text(key)
      .u32(6)
      .raw(new Uint8Array(Float32Array.of(value).buffer));
    count++;
  };
  string('general.architecture', 'llama');
  string('general.name', 'mantis-bench');
  integer('general.file_type', FILE_TYPE[format]);
  integer('llama.context_length', text.maxPositions);
  integer('llama.embedding_length', text.hidden);
  integer('llama.block_count', text.layers);
  integer('llama.feed_forward_length', text.intermediate);
  integer('llama.attention.head_count', text.heads);
  integer('llama.attention.head_count_kv', text.kvHeads);
  integer('llama.rope.dimension_count', text.headDim);
  integer('llama.vocab_size', text.vocab);
  float('llama.attention.layer_norm_rms_epsilon', text.rmsNormEpsilon);
  float('llama.rope.freq_base', text.ropeTheta);
  string('tokenizer.ggml.model', 'no_vocab');
  return { bytes, count };
}

/** Writes the file unless it is there, and gives its path. */
export function ggufExport(checkpointDir: string, format: GgufFormat): string {
  const path = join(CACHE, `decoder-${format}.gguf`);
  if (existsSync(path)) return path;
  mkdirSync(CACHE, { recursive: true });
  const weights = new DecoderWeights(checkpointDir);
  const file = openSync(`${path}.tmp`, 'w');
  try {
    const tensors = entries(weights, format);
    const { bytes: keys, count } = metadata(format);
    const header = new Bytes().raw(new TextEncoder().encode('GGUF')).u32(3).u64(tensors.length).u64(count);
    header.raw(keys.finish());
    const sizes = tensors.map(({ shape, type }) => {
      const values = shape.reduce((a, b) => a * b, 1);
      return type === 'f32' ? 4 * values : (values / BLOCK) * (type === 'q4_0' ? 18 : 34);
    });
    const padded = sizes.map((size) => Math.ceil(size / ALIGNMENT) * ALIGNMENT);
    let offset = 0;
    for (const [i, { name, shape, type }] of tensors.entries()) {
      header.text(name).u32(shape.length);
      for (const size of [...shape].reverse()) header.u64(size);
      header.u32(TYPE[type]).u64(offset);
      offset += padded[i]!;
    }
    writeSync(file, header.pad().finish());
    for (const [i, { type, read }] of tensors.entries()) {
      const values = read();
      const plain = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      const data = type === 'f32' ? plain : type === 'q4_0' ? quantizeQ4(values) : quantizeQ8(values);
      writeSync(file, data);
      writeSync(file, new Uint8Array(padded[i]! - data.length));
    }
    renameSync(`${path}.tmp`, path);
  } finally {
    closeSync(file);
    weights.close();
  }
  return path;
}
