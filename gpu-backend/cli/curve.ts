/** A value at an optimizer step. */
export interface Point {
  readonly step: number;
  readonly value: number;
}

export interface CurveOptions {
  /** Of the whole picture with its axes, in characters. */
  readonly columns: number;
  readonly rows: number;
  /** The step at the right end; default: the last one. */
  readonly lastStep?: number;
  /** Steps at which something new begins: marked on the axis. */
  readonly marks?: readonly number[];
  /** Paints the curves apart. Default false. */
  readonly color?: boolean;
}

const TRAIN = '\u001b[36m';
const VALIDATION = '\u001b[33m';
const PLAIN = '\u001b[0m';
const MARK = '◆';
/** Bit of each dot of a braille character, by column and row. */
const DOTS: readonly (readonly number[])[] = [
  [0x01, 0x02, 0x04, 0x40],
  [0x08, 0x10, 0x20, 0x80],
];

/**
 * Losses over steps in braille, 2 × 4 dots a character: training as a line through the mean of what falls into a dot's column, validation as marks joined
 * by nothing. Falls of more than a factor of eight are drawn over a logarithmic axis. At least one point is expected.
 * @returns lines without line ends, none longer than `columns`
 */
export function lossCurve(train: readonly Point[], validation: readonly Point[], options: CurveOptions): string[] {
  const rows = Math.max(3, options.rows - 1);
  const all = [...train, ...validation].filter(({ value }) => Number.isFinite(value));
  if (all.length === 0) return [];
  const lastStep = Math.max(options.lastStep ?? 1, ...all.map(({ step }) => step), 2);
  const columnOf = (step: number, count: number) => Math.round(((step - 1) / (lastStep - 1)) * (count - 1));
  const scale = new Scale(all.map(({ value }) => value));
  const ticks = new Map(
    [0, Math.floor((rows - 1) / 2), rows - 1].map((row) => [row, label(scale.at(1 - row / (rows - 1)))]),
  );
  const margin = Math.max(...[...ticks.values()].map((text) => text.length));
  const width = Math.max(8, options.columns - margin - 2);
  const canvas = new Canvas(width, rows);
  const dotOf = (value: number) => Math.round((1 - scale.share(value)) * (4 * rows - 1));
  let before: { x: number; y: number } | null = null;
  for (const { step: x, value } of meansByColumn(train, (step) => columnOf(step, 2 * width))) {
    const y = dotOf(value);
    if (before === null) canvas.set(x, y);
    else canvas.line(before.x, before.y, x, y);
    before = { x, y };
  }
  const marks = new Map<string, string>();
  for (const { step, value } of validation)
    if (Number.isFinite(value))
      marks.set(`${columnOf(step, width)},${Math.min(rows - 1, Math.floor(dotOf(value) / 4))}`, MARK);
  const paint = (color: string, text: string) => (options.color === true ? `${color}${text}${PLAIN}` : text);
  const lines = Array.from({ length: rows }, (_, row) => {
    let line = '';
    for (let column = 0; column < width; column++) {
      const mark = marks.get(`${column},${row}`);
      line += mark === undefined ? canvas.at(column, row) : mark;
    }
    const body = line
      .trimEnd()
      .split(MARK)
      .map((run) => (run === '' ? '' : paint(TRAIN, run)))
      .join(paint(VALIDATION, MARK));
    return `${(ticks.get(row) ?? '').padStart(margin)} ${ticks.has(row) ? '┤' : '│'}${body}`;
  });
  const marked = new Set((options.marks ?? []).map((step) => columnOf(step, width)));
  return [...lines, stepAxis(lastStep, margin, width, marked)];
}

/** `└─┬───┬──` with steps under the line would take a second one: the numbers stand in the line. */
function stepAxis(lastStep: number, margin: number, width: number, marked: ReadonlySet<number>): string {
  const right = String(lastStep);
  const middle = String(Math.round((1 + lastStep) / 2));
  const at = Math.floor((width - middle.length) / 2);
  let line = `1${'─'.repeat(Math.max(0, at - 1))}${middle}`;
  line += '─'.repeat(Math.max(0, width - line.length - right.length)) + right;
  // A number is worth more than a mark.
  const axis = Array.from(line, (char, column) => (char === '─' && marked.has(column) ? '┴' : char)).join('');
  return `${' '.repeat(margin)} └${axis}`;
}

/** Values to shares of the height, over their range and a little air. */
class Scale {
  private readonly low: number;
  private readonly high: number;
  private readonly isLog: boolean;

  constructor(values: readonly number[]) {
    const min = Math.min(...values);
    const max = Math.max(...values);
    this.isLog = min > 0 && max / min > 8;
    const [low, high] = this.isLog ? [Math.log(min), Math.log(max)] : [min, max];
    const air = high > low ? 0 : Math.max(Math.abs(high) * 0.1, 1e-3);
    this.low = low - air;
    this.high = high + air;
  }

  /** 0 at the bottom, 1 at the top. */
  share(value: number): number {
    return ((this.isLog ? Math.log(value) : value) - this.low) / (this.high - this.low);
  }

  at(share: number): number {
    const value = this.low + share * (this.high - this.low);
    return this.isLog ? Math.exp(value) : value;
  }
}

function label(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return value.toFixed(size < 0.1 ? 4 : size < 10 ? 3 : 1);
}

/** One point a column of dots, which is more than the terminal can show of a long job otherwise. */
function meansByColumn(points: readonly Point[], columnOf: (step: number) => number): Point[] {
  const sums = new Map<number, { sum: number; count: number }>();
  for (const { step, value } of points) {
    if (!Number.isFinite(value)) continue;
    const column = columnOf(step);
    const { sum, count } = sums.get(column) ?? { sum: 0, count: 0 };
    sums.set(column, { sum: sum + value, count: count + 1 });
  }
  return [...sums].sort(([a], [b]) => a - b).map(([step, { sum, count }]) => ({ step, value: sum / count }));
}

/** Dots in braille characters. */
class Canvas {
  private readonly cells: Uint8Array;

  constructor(
    private readonly width: number,
    private readonly rows: number,
  ) {
    this.cells = new Uint8Array(width * rows);
  }

  set(x: number, y: number): void {
    const column = x >> 1;
    const row = y >> 2;
    if (column < 0 || column >= this.width || row < 0 || row >= this.rows) return;
    const cell = row * this.width + column;
    this.cells[cell] = (this.cells[cell] ?? 0) | (DOTS[x & 1]?.[y & 3] ?? 0);
  }

  /** From one dot to another, both included. */
  line(x0: number, y0: number, x1: number, y1: number): void {
    const steps = Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0), 1);
    for (let i = 0; i <= steps; i++)
      this.set(Math.round(x0 + ((x1 - x0) * i) / steps), Math.round(y0 + ((y1 - y0) * i) / steps));
  }

  at(column: number, row: number): string {
    const bits = this.cells[row * this.width + column] ?? 0;
    return bits === 0 ? ' ' : String.fromCharCode(0x2800 + bits);
  }
}
