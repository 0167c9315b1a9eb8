/**
 * The decoder as the two kinds of ONNX files that transformers.js loads: `concat`, the layout of Optimum's exports (keys and
 * values grown by Concat, repeated for the query heads, scores and softmax as plain nodes), and `gqa`, the layout of newer
 * exports (GroupQueryAttention with growing past, fused norms). Both compute logits for the positions asked for alone.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OnnxModel } from '../../../gpu-backend/graph/lowering.ts';
import { encodeOnnx } from '../../../gpu-backend/runtime/onnx-encode.ts';
import { BENCH_CONFIG, CACHE } from './model.ts';
import { type ExportFormat, OnnxWriter } from './onnx-writer.ts';
import { DecoderWeights, stackRows } from './weights.ts';

export type ExportLayout = 'concat' | 'gqa';

const { text } = BENCH_CONFIG;
const { hidden: D, heads: H, kvHeads: KV, headDim, intermediate: F, rmsNormEpsilon } = text;

/** File suffixes by which transformers.js finds a format. */
const SUFFIX: Readonly<Record<ExportFormat, string>> = { fp32: '', q4: '_q4', q8: '_quantized' };

const cacheInfo = (prefix: string, length: string): OnnxModel['inputs'] =>
  Array.from({ length: text.layers }, (_, layer) => layer).flatMap((layer) =>
    ['key', 'value'].map((part) => ({
      name: `${prefix}.${layer}.${part}`,
      dtype: 'f32' as const,
      shape: ['batch_size', KV, length, headDim],
    })),
  );

/** cos and sin of position · θ^(-2i/headDim), [positions, headDim/2]. */
function ropeTable(of: (angle: number) => number): Float32Array {
  const half = headDim / 2;
  return Float32Array.from({ length: text.maxPositions * half }, (_, i) =>
    of(Math.fround(Math.floor(i / half) * Math.fround(1 / Math.fround(text.ropeTheta ** ((i % half) / half))))),
  );
}

const doubled = (table: Float32Array): Float32Array => {
  const half = headDim / 2;
  const out = new Float32Array(2 * table.length);
  for (let row = 0; row < table.length / half; row++)
    for (const part of [0, half]) out.set(table.subarray(row * half, (row + 1) * half), row * headDim + part);
  return out;
};

class Exporter {
  readonly w: OnnxWriter;

  constructor(
    readonly weights: DecoderWeights,
    readonly layout: ExportLayout,
    format: ExportFormat,
    dataPath: string,
  ) {
    this.w = new OnnxWriter(dataPath, format);
  }

  linear(x: string, names: readonly string[], width: number): string {
    const rows = stackRows(names.map((name) => this.weights.read(name)));
    return this.w.linear(x, names.join('+'), rows, width);
  }

  norm(name: string): string {
    return this.w.weight(name, 'f32', [D], this.weights.read(name));
  }

  mlp(x: string, layer: string): string {
    const { w } = this;
    const gate = this.linear(x, [`${layer}.mlp.gate_proj`], D);
    const up = this.linear(x, [`${layer}.mlp.up_proj`], D);
    const silu = w.op('Mul', [gate, w.op('Sigmoid', [gate])]);
    return this.linear(w.op('Mul', [silu, up]), [`${layer}.mlp.down_proj`], F);
  }

  model(): OnnxModel {
    const { w } = this;
    const embedding = w.weight('embed_tokens', 'f32', [text.vocab, D], this.weights.read('embed_tokens'));
    const x = w.op('Gather', [embedding, 'input_ids'], { axis: { int: 0 } });
    const normed = this.layout === 'gqa' ? this.fusedLayers(x) : this.plainLayers(x);
    const from = w.op('Neg', [w.op('Reshape', ['num_logits_to_keep', w.ints(1)])]);
    const last = w.op('Slice', [normed, from, w.ints(Number.MAX_SAFE_INTEGER), w.ints(1)]);
    const logits = w.linear(last, 'lm_head', this.weights.read('embed_tokens'), D);
    w.op('Identity', [logits], {}, 'logits');
    const i64 = 'i64' as const;
    return w.finish(
      [
        { name: 'input_ids', dtype: i64, shape: ['batch_size', 'sequence_length'] },
        { name: 'attention_mask', dtype: i64, shape: ['batch_size', 'total_sequence_length'] },
        ...(this.layout === 'concat'
          ? [{ name: 'position_ids', dtype: i64, shape: ['batch_size', 'sequence_length'] }]
          : []),
        { name: 'num_logits_to_keep', dtype: i64, shape: [] },
        ...cacheInfo('past_key_values', 'past_sequence_length'),
      ],
      [
        { name: 'logits', dtype: 'f32', shape: ['batch_size', 'num_logits', text.vocab] },
        ...cacheInfo('present', 'total_sequence_length'),
      ],
    );
  }

  /** GroupQueryAttention applies the rotary embedding and appends to the past; residual sum and norm are one node. */
  fusedLayers(x: string): string {
    const { w } = this;
    const int32 = { to: { int: 6 } };
    const seen = w.op('ReduceSum', ['attention_mask', w.ints(1)], { keepdims: { int: 0 } });
    const lengths = w.op('Cast', [w.op('Sub', [seen, w.int(1)])], int32);
    const total = w.op('Cast', [w.op('Gather', [w.op('Shape', ['attention_mask']), w.int(1)])], int32);
    const shape = [text.maxPositions, headDim / 2];
    const cos = w.weight('cos_cache', 'f32', shape, ropeTable(Math.cos));
    const sin = w.weight('sin_cache', 'f32', shape, ropeTable(Math.sin));
    const epsilon = { epsilon: rmsNormEpsilon };
    let residual = x;
    let normed = w.op('SimplifiedLayerNormalization', [x, this.norm('layers.0.input_layernorm')], {
      ...epsilon,
      axis: { int: -1 },
      stash_type: { int: 1 },
    });
    const addAndNorm = (y: string, name: string): void => {
      const [next = '', , , sum = ''] = w.ops(
        'SkipSimplifiedLayerNormalization',
        [residual, y, this.norm(name)],
        [`${name}_out`, '', '', `${name}_sum`],
        epsilon,
        'com.microsoft',
      );
      normed = next;
      residual = sum;
    };
    for (let index = 0; index < text.layers; index++) {
      const layer = `layers.${index}`;
      const projections = ['q', 'k', 'v'].map((part) => `${layer}.self_attn.${part}_proj`);
      const past = ['key', 'value'].map((part) => `past_key_values.${index}.${part}`);
      const [attended = ''] = w.ops(
        'GroupQueryAttention',
        [this.linear(normed, projections, D), '', '', ...past, lengths, total, cos, sin],
        [`${layer}.attention`, `present.${index}.key`, `present.${index}.value`],
        { num_heads: { int: H }, kv_num_heads: { int: KV }, scale: headDim ** -0.5, do_rotary: { int: 1 } },
        'com.microsoft',
      );
      addAndNorm(
        this.linear(attended, [`${layer}.self_attn.o_proj`], H * headDim),
        `${layer}.post_attention_layernorm`,
      );
      const next = index + 1 < text.layers ? `layers.${index + 1}.input_layernorm` : 'norm';
      addAndNorm(this.mlp(normed, layer), next);
    }
    return normed;
  }

  /** Standard nodes as torch's exporter leaves them; the runtime's optimiser fuses what it knows. */
  plainLayers(input: string): string {
    const { w } = this;
    const norm = (x: string, name: string): string => {
      const mean = w.op('ReduceMean', [w.op('Pow', [x, w.float(2)]), w.ints(-1)], { keepdims: { int: 1 } });
      const root = w.op('Sqrt', [w.op('Add', [mean, w.float(rmsNormEpsilon)])]);
      return w.op('Mul', [w.op('Div', [x, root]), this.norm(name)]);
    };
    const sizeOf = (axis: number): string =>
      w.op('Gather', [w.op('Shape', ['attention_mask']), w.int(axis)], { axis: { int: 0 } });
    const total = sizeOf(1);
    const total1 = w.op('Reshape', [total, w.ints(1)]);
    const batch1 = w.op('Reshape', [sizeOf(0), w.ints(1)]);
    const keys = w.op('Range', [w.int(0), total, w.int(1)]);
    const queries = w.op('Unsqueeze', ['position_ids', w.ints(1, 3)]);
    const isEarlier = w.op('LessOrEqual', [keys, queries]);
    const isText = w.op('Cast', [w.op('Unsqueeze', ['attention_mask', w.ints(1, 2)])], { to: { int: 9 } });
    const seen = w.op('And', [isEarlier, isText]);
    const mask = w.op('Where', [seen, w.float(0), w.float(-3.4e38)]);
    const table = (name: string, of: (angle: number) => number): string => {
      const values = w.weight(name, 'f32', [text.maxPositions, headDim], doubled(ropeTable(of)));
      return w.op('Unsqueeze', [w.op('Gather', [values, 'position_ids'], { axis: { int: 0 } }), w.ints(1)]);
    };
    const cos = table('cos_cached', Math.cos);
    const sin = table('sin_cached', Math.sin);
    const rotate = (x: string): string => {
      const half = (from: number, to: number): string =>
        w.op('Slice', [x, w.ints(from), w.ints(to), w.ints(3), w.ints(1)]);
      const turned = w.op('Concat', [w.op('Neg', [half(headDim / 2, Number.MAX_SAFE_INTEGER)]), half(0, headDim / 2)], {
        axis: { int: -1 },
      });
      return w.op('Add', [w.op('Mul', [x, cos]), w.op('Mul', [turned, sin])]);
    };
    const repeatedShape = w.op('Concat', [batch1, w.ints(KV), w.ints(H / KV), total1, w.ints(headDim)], {
      axis: { int: 0 },
    });
    const mergedShape = w.op('Concat', [batch1, w.ints(H), total1, w.ints(headDim)], { axis: { int: 0 } });
    const repeat = (x: string): string =>
      w.op('Reshape', [w.op('Expand', [w.op('Unsqueeze', [x, w.ints(2)]), repeatedShape]), mergedShape]);
    let x = input;
    for (let index = 0; index < text.layers; index++) {
      const layer = `layers.${index}`;
      const h = norm(x, `${layer}.input_layernorm`);
      const project = (part: string, heads: number): string => {
        const y = w.op('Reshape', [
          this.linear(h, [`${layer}.self_attn.${part}_proj`], D),
          w.ints(0, 0, heads, headDim),
        ]);
        return w.op('Transpose', [y], { perm: { ints: [0, 2, 1, 3] } });
      };
      const grow = (part: string, fresh: string): string =>
        w.op('Concat', [`past_key_values.${index}.${part}`, fresh], { axis: { int: 2 } }, `present.${index}.${part}`);
      const q = rotate(project('q', H));
      const k = repeat(grow('key', rotate(project('k', KV))));
      const v = repeat(grow('value', project('v', KV)));
      const scores = w.op('MatMul', [q, w.op('Transpose', [k], { perm: { ints: [0, 1, 3, 2] } })]);
      const biased = w.op('Add', [w.op('Mul', [scores, w.float(headDim ** -0.5)]), mask]);
      const attended = w.op('MatMul', [w.op('Softmax', [biased], { axis: { int: -1 } }), v]);
      const merged = w.op('Reshape', [
        w.op('Transpose', [attended], { perm: { ints: [0, 2, 1, 3] } }),
        w.ints(0, 0, H * headDim),
      ]);
      x = w.op('Add', [x, this.linear(merged, [`${layer}.self_attn.o_proj`], H * headDim)]);
      x = w.op('Add', [x, this.mlp(norm(x, `${layer}.post_attention_layernorm`), layer)]);
    }
    return norm(x, 'norm');
  }
}

/** Writes one export unless it is there. Gives the folder as transformers.js takes it. */
export function onnxExport(checkpointDir: string, layout: ExportLayout, format: ExportFormat): string {
  const dir = join(CACHE, `onnx-${layout}`);
  const model = join(dir, 'onnx', `model${SUFFIX[format]}.onnx`);
  if (existsSync(model)) return dir;
  mkdirSync(join(dir, 'onnx'), { recursive: true });
  const config = {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: D,
    num_attention_heads: H,
    num_key_value_heads: KV,
    num_hidden_layers: text.layers,
    vocab_size: text.vocab,
    'transformers.js_config': { use_external_data_format: true },
  };
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config));
  writeFileSync(join(dir, 'generation_config.json'), JSON.stringify({ eos_token_id: null, pad_token_id: 0 }));
  const weights = new DecoderWeights(checkpointDir);
  try {
    const exported = new Exporter(weights, layout, format, `${model}_data`).model();
    writeFileSync(model, encodeOnnx(exported));
  } finally {
    weights.close();
  }
  return dir;
}
