/** What the kernels of one device can do; chosen per execution provider. `false` everywhere = standard ONNX only. */
export interface Capabilities {
  readonly device: string;
  /** com.microsoft FusedMatMul (transposes and scale inside the kernel). */
  readonly fusedMatMul: boolean;
  /** SimplifiedLayerNormalization. */
  readonly simplifiedLayerNorm: boolean;
  /** Its second output, inv_std, which gradients need; else it is computed beside it. */
  readonly simplifiedLayerNormStats: boolean;
  /** com.microsoft SkipSimplifiedLayerNormalization: a sum and its SimplifiedLayerNormalization. */
  readonly skipSimplifiedLayerNorm: boolean;
  /** com.microsoft RotaryEmbedding. */
  readonly rotaryEmbedding: boolean;
  /** com.microsoft GroupQueryAttention over a whole prompt, with rotation. */
  readonly groupQueryAttention: boolean;
  /** Its attribute local_window_size. */
  readonly groupQueryWindow: boolean;
  /** com.microsoft GroupQueryAttention over a cache that is extended in place. */
  readonly groupQueryCache: boolean;
  /** com.microsoft QuickGelu (x * sigmoid(alpha x)). */
  readonly quickGelu: boolean;
  /** LogSoftmax kernel; else an explicit log-sum-exp. */
  readonly logSoftmax: boolean;
  /** com.microsoft MatMulNBits; else the weight is dequantised by standard operators in every run. */
  readonly matMulNBits: boolean;
  /** com.microsoft MatMulIntegerToFloat; else MatMulInteger and its scales. */
  readonly matMulIntegerToFloat: boolean;
}

/**
 * Two kernels are right on the processor but slow. SkipSimplifiedLayerNormalization takes 6.0 µs for eight rows of 576 where a sum and
 * a norm take 3.7, and 320 for 512 rows where they take 120. For whole prompts, blocks of plain products are faster than
 * GroupQueryAttention (`group-attention.ts`).
 */
export const CPU_CAPABILITIES: Capabilities = {
  device: 'cpu',
  fusedMatMul: true,
  simplifiedLayerNorm: true,
  simplifiedLayerNormStats: true,
  skipSimplifiedLayerNorm: false,
  rotaryEmbedding: true,
  groupQueryAttention: false,
  groupQueryWindow: false,
  groupQueryCache: true,
  quickGelu: true,
  logSoftmax: true,
  matMulNBits: true,
  matMulIntegerToFloat: true,
};

/** ONNX standard operators only: portable, and the second lowering every op is tested with. */
export const STANDARD_CAPABILITIES: Capabilities = {
  device: 'standard',
  fusedMatMul: false,
  simplifiedLayerNorm: false,
  simplifiedLayerNormStats: false,
  skipSimplifiedLayerNorm: false,
  rotaryEmbedding: false,
  groupQueryAttention: false,
  groupQueryWindow: false,
  groupQueryCache: false,
  quickGelu: false,
  logSoftmax: false,
  matMulNBits: false,
  matMulIntegerToFloat: false,
};

/**
 * What the WebGPU provider of ONNX Runtime 1.30 has kernels for. A wish: the conformance probe takes away what a driver gets wrong
 * (in version 1.30 SimplifiedLayerNormalization gives inv_std = 0). FusedMatMul and LogSoftmax have no kernel there, and an op
 * without one costs two copies between device and main memory.
 */
export const WEBGPU_CAPABILITIES: Capabilities = {
  device: 'webgpu',
  fusedMatMul: false,
  simplifiedLayerNorm: true,
  simplifiedLayerNormStats: true,
  skipSimplifiedLayerNorm: true,
  rotaryEmbedding: true,
  groupQueryAttention: true,
  groupQueryWindow: true,
  groupQueryCache: false,
  quickGelu: true,
  logSoftmax: false,
  matMulNBits: true,
  matMulIntegerToFloat: false,
};

/** What the CUDA provider of ONNX Runtime 1.30 registers for f32, by its list of kernels; a wish as for WebGPU. */
export const CUDA_CAPABILITIES: Capabilities = {
  device: 'cuda',
  fusedMatMul: true,
  simplifiedLayerNorm: true,
  simplifiedLayerNormStats: true,
  skipSimplifiedLayerNorm: true,
  rotaryEmbedding: true,
  groupQueryAttention: false,
  groupQueryWindow: false,
  groupQueryCache: false,
  quickGelu: true,
  logSoftmax: true,
  matMulNBits: true,
  matMulIntegerToFloat: false,
};

/** A capability that can be taken away. */
export type CapabilityName = Exclude<keyof Capabilities, 'device'>;

/** The same table without some kernels: their ops are lowered to standard ONNX. */
export function withoutCapabilities(capabilities: Capabilities, lost: readonly CapabilityName[]): Capabilities {
  return { ...capabilities, ...Object.fromEntries(lost.map((name) => [name, false])) };
}
