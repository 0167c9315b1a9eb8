/** Conversions between float32 and the two 16-bit float formats, round-half-to-even, NaN stays NaN. */

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

let float16Table: Float32Array | undefined;

/** All 65,536 float16 values, made at first use (256 KiB): decoding is then one look-up a value. */
function tableOfFloat16(): Float32Array {
  if (float16Table) return float16Table;
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0x1f) table[bits] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  float16Table = table;
  return table;
}

/** Decodes float16 bit patterns. */
export function decodeFloat16(bits: Uint16Array): Float32Array {
  const table = tableOfFloat16();
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]!]!;
  return out;
}

/** Encodes float32 as float16 bit patterns; values beyond 65,519 become infinity, tiny ones subnormal or zero. */
export function encodeFloat16(values: Float32Array): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    scratchFloat[0] = values[i]!;
    const bits = scratchBits[0]!;
    const sign = (bits >>> 16) & 0x8000;
    const magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) out[i] = sign | 0x7e00;
    else if (magnitude >= 0x477ff000) out[i] = sign | 0x7c00;
    else if (magnitude < 0x38800000) {
      // Below the smallest normal float16 the value is a multiple of 2^-24; scaling is exact, so only the rounding below rounds.
      const scaled = Math.abs(values[i]!) * 2 ** 24;
      const floor = Math.floor(scaled);
      const rest = scaled - floor;
      out[i] = sign | (rest > 0.5 || (rest === 0.5 && floor & 1) ? floor + 1 : floor);
    } else {
      const rebased = magnitude - 0x38000000;
      out[i] = sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
    }
  }
  return out;
}

/** Decodes bfloat16 bit patterns (the upper half of a float32): exact. */
export function decodeBfloat16(bits: Uint16Array): Float32Array {
  const out = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16;
  return new Float32Array(out.buffer);
}

/** Encodes float32 as bfloat16 bit patterns. */
export function encodeBfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const word = bits[i]!;
    if ((word & 0x7fffffff) > 0x7f800000) out[i] = (word >>> 16) | 0x40;
    else out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return out;
}

let crossTable: Uint16Array | undefined;

/**
 * bfloat16 bit patterns → float16 bit patterns, by table. A finite value beyond float16's range becomes infinity, as in
 * `encodeFloat16`.
 */
export function bfloat16ToFloat16(bits: Uint16Array): Uint16Array {
  crossTable ??= encodeFloat16(decodeBfloat16(Uint16Array.from({ length: 65536 }, (_, i) => i)));
  const out = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = crossTable[bits[i]!]!;
  return out;
}
