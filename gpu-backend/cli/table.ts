/** Columns as wide as their widest cell; the last one ragged. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  for (const row of [head, ...rows]) {
    const line = row.map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)));
    process.stdout.write(`${line.join('  ')}\n`);
  }
}

/** How long ago, in words; `never` for null. @param atS Unix seconds */
export function age(atS: number | null, nowMs: number = Date.now()): string {
  if (atS === null) return 'never';
  return `${span(nowMs / 1000 - atS)} ago`;
}

/** When something ends; `never` for null. @param atS Unix seconds */
export function until(atS: number | null, nowMs: number = Date.now()): string {
  if (atS === null) return 'never';
  const leftS = atS - nowMs / 1000;
  return leftS <= 0 ? `${span(-leftS)} ago` : `in ${span(leftS)}`;
}

function span(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} s`;
  if (s < 7_200) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3_600)} h`;
  return `${Math.round(s / 86_400)} days`;
}

/** Bytes in words, as files are spoken of: `812 B`, `4.9 kB`, `20 MB`, `1.3 GB`. */
export function size(bytes: number): string {
  if (bytes < 1e3) return `${bytes} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = bytes / 1e3;
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1e3;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}
