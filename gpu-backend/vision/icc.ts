/**
 * Reads embedded colour profiles (ICC.1:2022) as far as needed to tell those that change colours from those that say "sRGB". The
 * latter are in most pictures, differ from each other in the last digit, and must not cost a rounding.
 */

export type ProfileSpace = 'RGB' | 'GRAY' | 'CMYK';

/** Profiles beyond this are taken for what they are, an attempt to fill memory; the largest printing profiles are 3 MiB. */
const MAX_PROFILE_BYTES = 4 * 2 ** 20;

/** Colour space that the profile's data is for; null where it is no profile that could be applied. */
export function profileSpace(profile: Uint8Array): ProfileSpace | null {
  if (profile.byteLength < 132 || profile.byteLength > MAX_PROFILE_BYTES || text(profile, 36) !== 'acsp') return null;
  const space = text(profile, 16).trimEnd();
  return space === 'RGB' || space === 'GRAY' || space === 'CMYK' ? space : null;
}

/** sRGB's primaries adapted to D50 as profiles hold them (IEC 61966-2-1, Bradford), by column: X, Y, Z. */
const SRGB_COLORANTS: Readonly<Record<string, readonly [number, number, number]>> = {
  rXYZ: [0.4361, 0.2225, 0.0139],
  gXYZ: [0.3851, 0.7169, 0.0971],
  bXYZ: [0.1431, 0.0606, 0.7139],
};
/** Rounded to 16 bits or computed with another white, sRGB's primaries stay within this; Display P3's are 0.08 away. */
const COLORANT_TOLERANCE = 0.004;
/** Linear light; the curves of all profiles that call themselves sRGB stay within it, a plain gamma of 2.2 does not. */
const CURVE_TOLERANCE = 0.004;

/** True when an RGB or grey profile means what a picture without one means: applying it would round, not correct. */
export function isSrgbLike(profile: Uint8Array): boolean {
  const space = profileSpace(profile);
  if (space === 'GRAY') return isSrgbCurve(profile, 'kTRC');
  if (space !== 'RGB' || findTag(profile, 'A2B0') !== null) return false;
  for (const [tag, expected] of Object.entries(SRGB_COLORANTS)) {
    const at = findTag(profile, tag);
    if (at === null || text(profile, at) !== 'XYZ ') return false;
    for (const [i, value] of expected.entries())
      if (Math.abs(s15Fixed16(profile, at + 8 + 4 * i) - value) > COLORANT_TOLERANCE) return false;
  }
  return ['rTRC', 'gTRC', 'bTRC'].every((tag) => isSrgbCurve(profile, tag));
}

const srgbToLinear = (v: number): number => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);

function isSrgbCurve(profile: Uint8Array, tag: string): boolean {
  const at = findTag(profile, tag);
  const curve = at === null ? null : readCurve(profile, at);
  if (curve === null) return false;
  for (let level = 0; level <= 255; level += 5)
    if (Math.abs(curve(level / 255) - srgbToLinear(level / 255)) > CURVE_TOLERANCE) return false;
  return true;
}

/** `curv` (gamma or table) and `para` (functions 0 to 4) as functions from 0…1 to 0…1. */
function readCurve(p: Uint8Array, at: number): ((x: number) => number) | null {
  const kind = text(p, at);
  if (kind === 'curv') {
    const count = u32(p, at + 8);
    if (count === 0) return (x) => x;
    if (count === 1) return (x) => x ** (u16(p, at + 12) / 256);
    if (count > 65_536) return null;
    return (x) => {
      const place = x * (count - 1);
      const low = Math.min(Math.floor(place), count - 2);
      const [a, b] = [u16(p, at + 12 + 2 * low), u16(p, at + 14 + 2 * low)];
      return (a + (b - a) * (place - low)) / 65_535;
    };
  }
  if (kind !== 'para') return null;
  const [g, a, b, c, d, e, f] = Array.from({ length: 7 }, (_, i) => s15Fixed16(p, at + 12 + 4 * i)) as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  switch (u16(p, at + 8)) {
    case 0:
      return (x) => x ** g;
    case 1:
      return (x) => (x >= -b / a ? (a * x + b) ** g : 0);
    case 2:
      return (x) => (x >= -b / a ? (a * x + b) ** g + c : c);
    case 3:
      return (x) => (x >= d ? (a * x + b) ** g : c * x);
    case 4:
      return (x) => (x >= d ? (a * x + b) ** g + e : c * x + f);
    default:
      return null;
  }
}

/** Where the data of a tag begins, or null. */
function findTag(profile: Uint8Array, signature: string): number | null {
  const count = Math.min(u32(profile, 128), 128);
  for (let i = 0; i < count; i++) {
    const entry = 132 + 12 * i;
    if (text(profile, entry) !== signature) continue;
    const at = u32(profile, entry + 4);
    return at + 12 <= profile.byteLength ? at : null;
  }
  return null;
}

const text = (p: Uint8Array, at: number): string => String.fromCharCode(...p.subarray(at, at + 4));
const u16 = (p: Uint8Array, at: number): number => ((p[at] ?? 0) << 8) | (p[at + 1] ?? 0);
const u32 = (p: Uint8Array, at: number): number => u16(p, at) * 65_536 + u16(p, at + 2);
const s15Fixed16 = (p: Uint8Array, at: number): number => (u32(p, at) | 0) / 65_536;
