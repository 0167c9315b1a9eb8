import { createReadStream } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { Row } from './row.ts';

/** A cell of a picture in base64; larger ones are no picture of a benchmark. */
const MAX_CELL_CHARS = 64 << 20;

/**
 * The rows of tab-separated values as pandas writes them: a line of names, cells with tabs, line breaks or quotes in double quotes with quotes doubled, empty
 * cells for nothing. Values are text; empty ones are absent.
 * @param label for messages; rows count from 1 below the names
 * @throws Error naming the row that has another number of cells than there are names
 */
export async function* readTsv(path: string, label: string): AsyncGenerator<Row, void, undefined> {
  let names: readonly string[] | null = null;
  let line = 0;
  for await (const cells of cellRows(path, label)) {
    if (names === null) {
      names = cells.map((name, i) => (i === 0 ? name.replace(/^\ufeff/, '') : name));
      continue;
    }
    line++;
    if (cells.length === 1 && cells[0] === '') continue;
    if (cells.length !== names.length)
      throw new Error(
        `${label}, row ${line}: expected ${names.length} cells as in the line of names, received ${cells.length}`,
      );
    const values: Record<string, string> = {};
    for (const [i, name] of names.entries()) {
      const cell = cells[i];
      if (cell !== undefined && cell !== '') values[name] = cell;
    }
    yield new Row(label, line, values);
  }
}

async function* cellRows(path: string, label: string): AsyncGenerator<string[], void, undefined> {
  const decoder = new StringDecoder('utf8');
  let cells: string[] = [];
  let pieces: string[] = [];
  let cellChars = 0;
  let isQuoted = false;
  /** A quote has ended the quoted part, or is the first of two. */
  let isQuoteOpen = false;
  let isFresh = true;
  let count = 0;
  const push = (text: string): void => {
    if (text === '') return;
    pieces.push(text);
    cellChars += text.length;
    if (cellChars > MAX_CELL_CHARS)
      throw new Error(
        `${label}, row ${count}, cell ${cells.length + 1}: expected at most ${MAX_CELL_CHARS} characters, received more; is a quote missing its end?`,
      );
  };
  const endCell = (): void => {
    cells.push(pieces.join(''));
    pieces = [];
    cellChars = 0;
    isFresh = true;
    isQuoted = false;
  };
  const endRow = (): string[] => {
    endCell();
    const row = cells;
    cells = [];
    count++;
    return row;
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
    const text = decoder.write(chunk as Buffer);
    let at = 0;
    while (at < text.length) {
      if (isQuoteOpen) {
        isQuoteOpen = false;
        if (text[at] === '"') {
          push('"');
          at++;
        } else isQuoted = false;
        continue;
      }
      if (isQuoted) {
        const quote = text.indexOf('"', at);
        push(text.slice(at, quote < 0 ? text.length : quote));
        if (quote < 0) break;
        isQuoteOpen = true;
        at = quote + 1;
        continue;
      }
      if (isFresh && text[at] === '"') {
        isQuoted = true;
        isFresh = false;
        at++;
        continue;
      }
      const end = /[\t\r\n]/g;
      end.lastIndex = at;
      const stop = end.exec(text)?.index ?? text.length;
      if (stop > at) isFresh = false;
      push(text.slice(at, stop));
      at = stop;
      if (at === text.length) break;
      if (text[at] === '\t') endCell();
      else if (text[at] === '\n') yield endRow();
      at++;
    }
  }
  if (isQuoted && !isQuoteOpen)
    throw new Error(`${label}, row ${count}: the file ends within a quoted cell; it seems to have been cut off`);
  if (cells.length > 0 || pieces.length > 0) yield endRow();
}
