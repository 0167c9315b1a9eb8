import { writeFile } from 'node:fs/promises';
import { crc32, deflateRawSync } from 'node:zlib';
import type { Json } from './task.ts';

/** A row for a benchmark's server, by column. */
export type SubmissionRow = { readonly [column: string]: Json };

const WRITERS: Readonly<Record<string, (rows: readonly SubmissionRow[]) => string | Uint8Array>> = {
  '.json': (rows) => `${JSON.stringify(rows, null, 1)}\n`,
  '.jsonl': (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join(''),
  '.tsv': (rows) => table(rows).map(tsvLine).join(''),
  '.xlsx': (rows) => workbook(table(rows)),
};

/**
 * The form that a file's ending names: `.json` (a list of objects: VQA, TextVQA), `.jsonl`, `.tsv`, or `.xlsx` (MMBench), a workbook of one sheet.
 * @throws Error for another ending
 */
export function requireSubmissionForm(path: string): (rows: readonly SubmissionRow[]) => string | Uint8Array {
  const ending = /\.[a-z]+$/i.exec(path)?.[0].toLowerCase() ?? '';
  const writer = Object.hasOwn(WRITERS, ending) ? WRITERS[ending] : undefined;
  if (writer === undefined)
    throw new Error(
      `${path}: expected a name that ends with .json, .jsonl, .tsv or .xlsx, received ${ending === '' ? 'none of them' : ending}`,
    );
  return writer;
}

/**
 * Writes rows in the form that the file's ending names. Columns are those of all rows, in the order in which they first appear.
 * @throws Error for another ending, or no rows
 */
export async function writeSubmission(path: string, rows: readonly SubmissionRow[]): Promise<void> {
  const write = requireSubmissionForm(path);
  if (rows.length === 0) throw new Error(`${path}: expected rows to hand in, there are none`);
  await writeFile(path, write(rows));
}

function table(rows: readonly SubmissionRow[]): Json[][] {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  return [columns, ...rows.map((row) => columns.map((column) => row[column] ?? ''))];
}

const textOf = (value: Json): string =>
  typeof value === 'string' ? value : typeof value === 'object' ? JSON.stringify(value) : String(value);

function tsvLine(cells: readonly Json[]): string {
  const quoted = cells.map(textOf).map((text) => (/["\t\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text));
  return `${quoted.join('\t')}\n`;
}

/** A cell of a workbook holds at most so many characters. */
const MAX_CELL_CHARS = 32_767;

/** The five parts that a workbook cannot do without (ECMA-376), in a zip archive. Numbers are numbers, all else is inline text. */
function workbook(cells: readonly (readonly Json[])[]): Uint8Array {
  const head = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n';
  const main = 'http://schemas.openxmlformats.org/spreadsheetml/2006/main';
  const relations = 'http://schemas.openxmlformats.org/officeDocument/2006/relationships';
  const packages = 'http://schemas.openxmlformats.org/package/2006';
  const office = 'application/vnd.openxmlformats-officedocument.spreadsheetml';
  const sheet = cells.map(
    (row, i) => `<row r="${i + 1}">${row.map((value, j) => cellXml(value, i, j)).join('')}</row>`,
  );
  return zip([
    [
      '[Content_Types].xml',
      `${head}<Types xmlns="${packages}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="${office}.sheet.main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" ContentType="${office}.worksheet+xml"/></Types>`,
    ],
    [
      '_rels/.rels',
      `${head}<Relationships xmlns="${packages}/relationships"><Relationship Id="rId1" Type="${relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>`,
    ],
    [
      'xl/workbook.xml',
      `${head}<workbook xmlns="${main}" xmlns:r="${relations}"><sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>`,
    ],
    [
      'xl/_rels/workbook.xml.rels',
      `${head}<Relationships xmlns="${packages}/relationships"><Relationship Id="rId1" Type="${relations}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>`,
    ],
    [
      'xl/worksheets/sheet1.xml',
      `${head}<worksheet xmlns="${main}"><sheetData>${sheet.join('')}</sheetData></worksheet>`,
    ],
  ]);
}

function cellXml(value: Json, row: number, column: number): string {
  const at = `${columnName(column)}${row + 1}`;
  if (typeof value === 'number' && Number.isFinite(value)) return `<c r="${at}"><v>${value}</v></c>`;
  const text = textOf(value).slice(0, MAX_CELL_CHARS);
  const written = text
    // XML has no place for most control characters, whatever their spelling.
    .replace(/\p{Cc}|[\ufffe\uffff]/gu, (character) => ('\t\n\r'.includes(character) ? character : ''))
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('\r', '&#13;');
  return written === '' ? '' : `<c r="${at}" t="inlineStr"><is><t xml:space="preserve">${written}</t></is></c>`;
}

/** `A` … `Z`, `AA`, … */
function columnName(index: number): string {
  const last = String.fromCharCode(65 + (index % 26));
  return index < 26 ? last : columnName(Math.floor(index / 26) - 1) + last;
}

/** A zip archive (APPNOTE 6.3) of a few text files, deflated; dated 1980, so that equal rows give equal bytes. */
function zip(files: readonly (readonly [name: string, text: string])[]): Uint8Array {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, text] of files) {
    const plain = Buffer.from(text);
    const packed = deflateRawSync(plain);
    // Version, flags (UTF-8 names), deflate, time, date, checksum, sizes, length of the name, no extra field.
    const facts = Buffer.alloc(26);
    for (const [value, at] of [
      [20, 0],
      [0x0800, 2],
      [8, 4],
      [0, 6],
      [0x21, 8],
      [name.length, 22],
      [0, 24],
    ] as const)
      facts.writeUInt16LE(value, at);
    facts.writeUInt32LE(crc32(plain), 10);
    facts.writeUInt32LE(packed.length, 14);
    facts.writeUInt32LE(plain.length, 18);
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), facts, Buffer.from(name), packed]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from('PK\x01\x02\x14\x00', 'latin1'), facts, tail, Buffer.from(name)]));
    parts.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(files.length, 8);
  end.writeUInt16LE(files.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}
