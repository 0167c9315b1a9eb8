import { ProbeError } from './bytes.ts';

const OBU_SEQUENCE_HEADER = 1;
/** A sequence header comes first, behind a temporal delimiter at most. */
const MAX_OBUS = 8;

/**
 * Largest frame size of an AV1 stream by its sequence header, pixels; sections 5.3 and 5.5 of the AV1 bitstream specification.
 * @returns null where there is none among the first OBUs
 * @throws ProbeError where it ends within
 */
export function readSequenceHeader(data: Uint8Array): { width: number; height: number } | null {
  let at = 0;
  for (let i = 0; i < MAX_OBUS && at < data.byteLength; i++) {
    const header = data[at++]!;
    const type = (header >> 3) & 15;
    if ((header & 0x80) !== 0) throw new ProbeError('has a broken AV1 unit');
    if ((header & 4) !== 0) at++; // extension
    let size = data.byteLength - at;
    if ((header & 2) !== 0) ({ value: size, next: at } = leb128(data, at));
    if (type === OBU_SEQUENCE_HEADER) return frameSize(new Bits(data.subarray(at, at + size)));
    at += size;
  }
  return null;
}

/** The fields before max_frame_width_minus_1, in their order. */
function frameSize(bits: Bits): { width: number; height: number } {
  bits.read(3); // seq_profile
  bits.read(1); // still_picture
  const isReduced = bits.read(1) === 1;
  if (isReduced)
    bits.read(5); // seq_level_idx
  else {
    let hasModel = false;
    let delayLength = 0;
    if (bits.read(1) === 1) {
      bits.read(32);
      bits.read(32);
      if (bits.read(1) === 1) bits.uvlc(); // num_ticks_per_picture_minus_1
      hasModel = bits.read(1) === 1;
      if (hasModel) {
        delayLength = bits.read(5) + 1;
        bits.read(32);
        bits.read(10);
      }
    }
    const hasDisplayDelay = bits.read(1) === 1;
    const points = bits.read(5) + 1;
    for (let i = 0; i < points; i++) {
      bits.read(12); // operating_point_idc
      if (bits.read(5) > 7) bits.read(1); // seq_level_idx, seq_tier
      if (hasModel && bits.read(1) === 1) {
        bits.read(delayLength);
        bits.read(delayLength);
        bits.read(1);
      }
      if (hasDisplayDelay && bits.read(1) === 1) bits.read(4);
    }
  }
  const widthBits = bits.read(4) + 1;
  const heightBits = bits.read(4) + 1;
  return { width: bits.read(widthBits) + 1, height: bits.read(heightBits) + 1 };
}

function leb128(data: Uint8Array, from: number): { value: number; next: number } {
  let value = 0;
  for (let i = 0; i < 8; i++) {
    const byte = data[from + i];
    if (byte === undefined) throw new ProbeError('ends within an AV1 unit');
    value += (byte & 0x7f) * 2 ** (7 * i);
    if ((byte & 0x80) === 0) return { value, next: from + i + 1 };
  }
  throw new ProbeError('has an AV1 unit without an end');
}

/** Most significant bit first. */
class Bits {
  #at = 0;

  constructor(readonly data: Uint8Array) {}

  read(count: number): number {
    let value = 0;
    for (let i = 0; i < count; i++) {
      const byte = this.data[this.#at >> 3];
      if (byte === undefined) throw new ProbeError('ends within its AV1 sequence header');
      value = value * 2 + ((byte >> (7 - (this.#at & 7))) & 1);
      this.#at++;
    }
    return value;
  }

  /** Section 4.10.3; skipped over, not used. */
  uvlc(): void {
    let zeros = 0;
    while (zeros < 32 && this.read(1) === 0) zeros++;
    if (zeros < 32) this.read(zeros);
  }
}
