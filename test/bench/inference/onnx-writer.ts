import { closeSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import type { DType } from '../../../gpu-backend/graph/graph.ts';
import type { OnnxExternalTensor, OnnxModel, OnnxNode, OnnxTensor } from '../../../gpu-backend/graph/lowering.ts';
import { Quantizers } from '../../../gpu-backend/io/quantize.ts';
import { transposed } from './weights.ts';

/** How an export holds its matrices. */
export type ExportFormat = 'fp32' | 'q4' | 'q8';

/** Values of a row that share a 4-bit scale: what transformers.js's own conversion script writes. */
const Q4_BLOCK = 32;

/**
 * Builds an ONNX model node by node; weights go to a data file beside it as they come. Each method gives the name of its first
 * output.
 */
export class OnnxWriter {
  readonly #nodes: OnnxNode[] = [];
  readonly #initializers = new Map<string, OnnxTensor>();
  readonly #externals: OnnxExternalTensor[] = [];
  readonly #quantizers = new Quantizers();
  readonly #file: number;
  readonly #location: string;
  #offset = 0;

  constructor(
    dataPath: string,
    private readonly format: ExportFormat,
  ) {
    this.#file = openSync(dataPath, 'w');
    this.#location = basename(dataPath);
  }

  op(type: string, inputs: readonly string[], attrs: OnnxNode['attrs'] = {}, name?: string): string {
    return this.ops(type, inputs, [name ?? `t${this.#nodes.length}`], attrs)[0] ?? '';
  }

  contrib(type: string, inputs: readonly string[], attrs: OnnxNode['attrs'] = {}): string {
    return this.ops(type, inputs, [`t${this.#nodes.length}`], attrs, 'com.microsoft')[0] ?? '';
  }

  ops(
    type: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attrs: OnnxNode['attrs'] = {},
    domain = '',
  ): readonly string[] {
    this.#nodes.push({ opType: type, domain, inputs, outputs, attrs, name: `${type}_${this.#nodes.length}` });
    return outputs;
  }

  ints(...values: number[]): string {
    return this.#shared(`ints ${values}`, 'i64', [values.length], BigInt64Array.from(values, BigInt));
  }

  int(value: number): string {
    return this.#shared(`int ${value}`, 'i64', [], BigInt64Array.of(BigInt(value)));
  }

  float(value: number): string {
    return this.#shared(`float ${value}`, 'f32', [], Float32Array.of(value));
  }

  /** A weight in the data file, as it is. */
  weight(name: string, dtype: DType, shape: readonly number[], data: ArrayBufferView): string {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let done = 0; done < bytes.length; )
      done += writeSync(this.#file, bytes, done, Math.min(1 << 26, bytes.length - done));
    this.#externals.push({
      name,
      dtype,
      shape,
      location: this.#location,
      offsetBytes: this.#offset,
      lengthBytes: bytes.length,
    });
    this.#offset += bytes.length;
    return name;
  }

  /** x [.., in] times the weight [out, in], in the export's format. */
  linear(x: string, name: string, weight: Float32Array, width: number): string {
    const out = weight.length / width;
    if (this.format === 'fp32')
      return this.op('MatMul', [x, this.weight(name, 'f32', [width, out], transposed(weight, width))]);
    return this.format === 'q4' ? this.#linear4(x, name, weight, width) : this.#linear8(x, name, weight, width);
  }

  #linear4(x: string, name: string, weight: Float32Array, width: number): string {
    const out = weight.length / width;
    const blocks = width / Q4_BLOCK;
    const packed = new Uint8Array(weight.length / 2);
    const scales = new Float32Array(out * blocks);
    const rows = new Uint8Array(weight.buffer, weight.byteOffset, weight.byteLength);
    this.#quantizers.of(width, { bits: 4, blockSize: Q4_BLOCK }, 'f32').quantize(rows, packed, scales);
    return this.contrib(
      'MatMulNBits',
      [
        x,
        this.weight(`${name}_Q4`, 'u8', [out, blocks, Q4_BLOCK / 2], packed),
        this.weight(`${name}_scales`, 'f32', [out * blocks], scales),
      ],
      // Accuracy level 4 lets the kernel round activations to int8; at level 0 one row takes 3.5 times as long.
      {
        K: { int: width },
        N: { int: out },
        bits: { int: 4 },
        block_size: { int: Q4_BLOCK },
        accuracy_level: { int: 4 },
      },
    );
  }

  /** Dynamic int8 as ONNX Runtime's quantize_dynamic writes it, one scale per output; the runtime fuses the nodes into one. */
  #linear8(x: string, name: string, weight: Float32Array, width: number): string {
    const out = weight.length / width;
    const scales = new Float32Array(out);
    const values = new Int8Array(weight.length);
    for (let row = 0; row < out; row++) {
      let most = 0;
      for (let i = 0; i < width; i++) most = Math.max(most, Math.abs(weight[row * width + i]!));
      const scale = most / 127;
      scales[row] = scale;
      for (let i = 0; i < width; i++) values[i * out + row] = Math.round(weight[row * width + i]! / scale);
    }
    const id = this.#nodes.length;
    const [quantized = '', scale = '', zero = ''] = this.ops(
      'DynamicQuantizeLinear',
      [x],
      [`t${id}`, `t${id}_scale`, `t${id}_zero`],
    );
    const product = this.op('MatMulInteger', [
      quantized,
      this.weight(`${name}_quantized`, 'i8', [width, out], values),
      zero,
    ]);
    const scaleOfProduct = this.op('Mul', [scale, this.weight(`${name}_scale`, 'f32', [out], scales)]);
    return this.op('Mul', [this.op('Cast', [product], { to: { int: 1 } }), scaleOfProduct]);
  }

  finish(inputs: OnnxModel['inputs'], outputs: OnnxModel['outputs']): OnnxModel {
    closeSync(this.#file);
    return {
      inputs,
      outputs,
      nodes: this.#nodes,
      initializers: [...this.#initializers.values()],
      externals: this.#externals,
    };
  }

  #shared(name: string, dtype: DType, shape: readonly number[], data: OnnxTensor['data']): string {
    if (!this.#initializers.has(name)) this.#initializers.set(name, { name, dtype, shape, data });
    return name;
  }
}
