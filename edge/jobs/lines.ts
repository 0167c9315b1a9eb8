/**
 * A line's bytes with its 1-based number and the offset of its first byte; `bytes` is null where the line is longer than allowed (it is skipped, not
 * kept).
 */
export type Line = { number: number; at: number; bytes: Uint8Array | null };

const LF = 0x0a;
const CR = 0x0d;

/** Splits a byte stream at newlines without ever holding more than one line. CRLF is taken; a missing last newline too. */
export async function* splitLines(
  stream: AsyncIterable<Uint8Array>,
  maxLineBytes: number,
): AsyncGenerator<Line, void, undefined> {
  let pieces: Uint8Array[] = [];
  let held = 0;
  let number = 1;
  let at = 0;
  const finish = (): Line => {
    const line = { number: number++, at, bytes: held > maxLineBytes ? null : join(pieces, held) };
    at += held + 1;
    pieces = [];
    held = 0;
    return line;
  };
  const keep = (piece: Uint8Array) => {
    held += piece.byteLength;
    if (held <= maxLineBytes) pieces.push(piece);
    else pieces = [];
  };
  for await (const chunk of stream) {
    let from = 0;
    for (let end = chunk.indexOf(LF); end >= 0; end = chunk.indexOf(LF, from)) {
      keep(chunk.subarray(from, end));
      from = end + 1;
      yield finish();
    }
    if (from < chunk.byteLength) keep(chunk.subarray(from));
  }
  if (held > 0) yield finish();
}

function join(pieces: readonly Uint8Array[], total: number): Uint8Array {
  const line = new Uint8Array(total);
  let at = 0;
  for (const piece of pieces) {
    line.set(piece, at);
    at += piece.byteLength;
  }
  return line.at(-1) === CR ? line.subarray(0, -1) : line;
}
