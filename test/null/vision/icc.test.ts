import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isSrgbLike, profileSpace } from '../../../gpu-backend/vision/icc.ts';

const s15 = (value: number): readonly number[] => {
  const fixed = Math.round(value * 65_536);
  return [(fixed >> 24) & 255, (fixed >> 16) & 255, (fixed >> 8) & 255, fixed & 255];
};
const u32 = (value: number): readonly number[] => [
  (value >>> 24) & 255,
  (value >> 16) & 255,
  (value >> 8) & 255,
  value & 255,
];
const ascii = (text: string): readonly number[] => [...Buffer.from(text, 'latin1')];
const xyz = (values: readonly number[]): readonly number[] => [...ascii('XYZ '), ...u32(0), ...values.flatMap(s15)];
const para = (kind: number, ...values: readonly number[]): readonly number[] => [
  ...[...ascii('para'), ...u32(0), 0, kind, 0, 0],
  ...values.flatMap(s15),
];
const gamma = (value: number): readonly number[] => [
  ...ascii('curv'),
  ...u32(0),
  ...u32(1),
  Math.floor(value),
  Math.round((value % 1) * 256),
];
/** A curve of 1,024 points, as many cameras write it. */
const table = (curve: (x: number) => number): readonly number[] => {
  const points = Array.from({ length: 1024 }, (_, i) => Math.round(curve(i / 1023) * 65_535));
  return [...ascii('curv'), ...u32(0), ...u32(1024), ...points.flatMap((v) => [v >> 8, v & 255])];
};

function profile(space: string, tags: Readonly<Record<string, readonly number[]>>): Uint8Array {
  const entries = Object.entries(tags);
  const entryAt = 132 + 12 * entries.length;
  const head: number[] = [];
  const data: number[] = [];
  for (const [name, bytes] of entries) {
    head.push(...ascii(name), ...u32(entryAt + data.length), ...u32(bytes.length));
    data.push(...bytes, ...Array<number>((4 - (bytes.length % 4)) % 4).fill(0));
  }
  const out = Uint8Array.from([...Array<number>(128).fill(0), ...u32(entries.length), ...head, ...data]);
  out.set(ascii(space.padEnd(4)), 16);
  out.set(ascii('acsp'), 36);
  return out;
}

const SRGB = [
  [0.4361, 0.2225, 0.0139],
  [0.3851, 0.7169, 0.0971],
  [0.1431, 0.0606, 0.7139],
] as const;
const P3 = [
  [0.5151, 0.2412, -0.0011],
  [0.2919, 0.6922, 0.0419],
  [0.1572, 0.0666, 0.7841],
] as const;
const toLinear = (v: number): number => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const SRGB_CURVE = para(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045);

function rgb(primaries: typeof SRGB | typeof P3, curve: readonly number[]): Uint8Array {
  const [r, g, b] = primaries;
  return profile('RGB', { rXYZ: xyz(r), gXYZ: xyz(g), bXYZ: xyz(b), rTRC: curve, gTRC: curve, bTRC: curve });
}

test('profiles that say sRGB are told from those that do not', () => {
  assert.ok(isSrgbLike(rgb(SRGB, SRGB_CURVE)));
  assert.ok(isSrgbLike(rgb(SRGB, table(toLinear))));
  assert.ok(!isSrgbLike(rgb(P3, SRGB_CURVE)));
  assert.ok(!isSrgbLike(rgb(SRGB, gamma(2.2))));
  assert.ok(!isSrgbLike(rgb(SRGB, gamma(1))));
  assert.ok(isSrgbLike(profile('GRAY', { kTRC: SRGB_CURVE })));
  assert.ok(!isSrgbLike(profile('GRAY', { kTRC: gamma(1.8) })));
  assert.ok(!isSrgbLike(profile('RGB', { A2B0: SRGB_CURVE })));
});

test('the space of a profile, and what is none', () => {
  assert.equal(profileSpace(rgb(P3, SRGB_CURVE)), 'RGB');
  assert.equal(profileSpace(profile('CMYK', {})), 'CMYK');
  assert.equal(profileSpace(profile('Lab', {})), null);
  assert.equal(profileSpace(new Uint8Array(200)), null);
  assert.equal(profileSpace(rgb(P3, SRGB_CURVE).subarray(0, 131)), null);
});

test('a damaged profile is read without a fault', () => {
  const whole = rgb(SRGB, table(toLinear));
  const edits = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 12 });
  fc.assert(
    fc.property(edits, fc.nat(whole.length), (changes, length) => {
      const bytes = whole.slice();
      for (const [at, value] of changes) bytes[at] = value;
      assert.equal(typeof isSrgbLike(bytes.subarray(0, length)), 'boolean');
    }),
    { numRuns: 2_000 },
  );
});
