/** Decimal numbers between two bounds, as expressions. Bounds and values are integers scaled by 10^fraction digits. */
import { alt, chars, DIGIT, type Expr, optional, repeat, seq, text } from './expr.ts';

/** Digits before the point at most where nothing bounds a number: every such integer is exact in a double. */
const MAX_DIGITS = 15;
const digits = (from: number, to: number): Expr => chars([0x30 + from, 0x30 + to]);
const POSITIVE_INTEGER = alt(text('0'), seq(digits(1, 9), repeat(DIGIT, 0, MAX_DIGITS - 1)));

/** Any integer of up to 15 digits. */
export const INTEGER: Expr = seq(optional(text('-')), POSITIVE_INTEGER);
/** Any JSON number that stays finite and exact enough. */
export const NUMBER: Expr = seq(
  INTEGER,
  optional(seq(text('.'), repeat(DIGIT, 1, MAX_DIGITS))),
  optional(seq(chars([0x45, 0x45], [0x65, 0x65]), optional(chars([0x2b, 0x2b], [0x2d, 0x2d])), repeat(DIGIT, 1, 2))),
);

/**
 * Numbers n / 10^fractionDigits with low ≤ n ≤ high, written without exponent and with at most that many digits after the point.
 * `null` when there is none.
 */
export function numberRange(low: bigint, high: bigint, fractionDigits: number): Expr | null {
  const parts: Expr[] = [];
  if (high >= 0n && high >= low) parts.push(magnitudes(low > 0n ? low : 0n, high, fractionDigits));
  if (low < 0n && high >= low) parts.push(seq(text('-'), magnitudes(high < 0n ? -high : 1n, -low, fractionDigits)));
  return parts.length === 0 ? null : alt(...parts);
}

/** 0 ≤ low ≤ high. */
function magnitudes(low: bigint, high: bigint, F: number): Expr {
  const scale = 10n ** BigInt(F);
  const [whole, top] = [low / scale, high / scale];
  const [fractionLow, fractionHigh] = [padded(low % scale, F), padded(high % scale, F)];
  if (whole === top) return seq(text(`${whole}`), fraction(fractionLow, fractionHigh));
  const nines = '9'.repeat(F);
  const zeros = '0'.repeat(F);
  const parts = [
    seq(text(`${whole}`), fraction(fractionLow, nines)),
    seq(text(`${top}`), fraction(zeros, fractionHigh)),
  ];
  if (top - whole > 1n) parts.push(seq(integers(whole + 1n, top - 1n), fraction(zeros, nines)));
  return alt(...parts);
}

function padded(value: bigint, width: number): string {
  return width === 0 ? '' : `${value}`.padStart(width, '0');
}

/** Integers low … high without leading zeros, 0 ≤ low ≤ high. */
function integers(low: bigint, high: bigint): Expr {
  const parts: Expr[] = [];
  for (let from = low; from <= high; ) {
    const last = 10n ** BigInt(`${from}`.length) - 1n;
    const to = last < high ? last : high;
    parts.push(between(`${from}`, `${to}`, 0, true, true));
    from = to + 1n;
  }
  return alt(...parts);
}

/** Digit strings of equal length between two such strings, from position `at` on. */
function between(low: string, high: string, at: number, tightLow: boolean, tightHigh: boolean): Expr {
  if (at === low.length) return text('');
  if (!tightLow && !tightHigh) return repeat(DIGIT, low.length - at, low.length - at);
  return byDigit(low, high, at, tightLow, tightHigh, (isLow, isHigh) => between(low, high, at + 1, isLow, isHigh));
}

/** The digit at `at` and what follows it, which depends on whether a bound still binds. */
function byDigit(
  low: string,
  high: string,
  at: number,
  tightLow: boolean,
  tightHigh: boolean,
  rest: (tightLow: boolean, tightHigh: boolean) => Expr,
): Expr {
  const first = tightLow ? Number(low[at]) : 0;
  const last = tightHigh ? Number(high[at]) : 9;
  if (first === last) return seq(digits(first, first), rest(tightLow, tightHigh));
  const parts: Expr[] = [];
  if (tightLow) parts.push(seq(digits(first, first), rest(true, false)));
  if (tightHigh) parts.push(seq(digits(last, last), rest(false, true)));
  const [from, to] = [tightLow ? first + 1 : first, tightHigh ? last - 1 : last];
  if (from <= to) parts.push(seq(digits(from, to), rest(false, false)));
  return alt(...parts);
}

/** Nothing, or a point and up to F digits, whose value (padded with zeros) lies between the two digit strings of length F. */
function fraction(low: string, high: string): Expr {
  const F = low.length;
  if (F === 0) return text('');
  const mayEnd = (at: number, tightLow: boolean) => !tightLow || /^0*$/.test(low.slice(at));
  const tail = (at: number, tightLow: boolean, tightHigh: boolean): Expr => {
    if (!tightLow && !tightHigh) return repeat(DIGIT, 0, F - at);
    if (at === F) return text('');
    const more = byDigit(low, high, at, tightLow, tightHigh, (isLow, isHigh) => tail(at + 1, isLow, isHigh));
    return mayEnd(at, tightLow) ? optional(more) : more;
  };
  const digitsAfter = byDigit(low, high, 0, true, true, (isLow, isHigh) => tail(1, isLow, isHigh));
  const part = seq(text('.'), digitsAfter);
  return mayEnd(0, true) ? optional(part) : part;
}

/**
 * A JavaScript number times 10^fractionDigits as an integer, rounded up or down where digits are left over; `null` when it is not
 * finite. Exact: works on the number's shortest decimal form.
 */
export function scaled(value: number, fractionDigits: number, round: 'up' | 'down'): bigint | null {
  const parts = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value));
  if (parts === null) return null;
  const [, sign = '', whole = '', after = '', exponent = '0'] = parts;
  const shift = Number(exponent) + fractionDigits - after.length;
  const all = BigInt(whole + after);
  const signed = sign === '-' ? -all : all;
  if (shift >= 0) return signed * 10n ** BigInt(shift);
  const divisor = 10n ** BigInt(-shift);
  const floor = signed / divisor - (signed % divisor < 0n ? 1n : 0n);
  return round === 'up' && signed % divisor !== 0n ? floor + 1n : floor;
}
