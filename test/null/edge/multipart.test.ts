import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { boundaryOf, MultipartParser } from '../../../edge/files/multipart.ts';
import { ApiError } from '../../../shared/contract/errors.ts';

type Part = { name: string; filename: string | null; mime: string | null; bytes: Buffer };

/** Parses a whole body that arrives in the given pieces. */
function parse(boundary: string, pieces: readonly Uint8Array[]): Part[] {
  const parser = new MultipartParser(boundary);
  const parts: Part[] = [];
  let ended = 0;
  for (const piece of pieces) {
    for (const event of parser.push(piece)) {
      if (event.type === 'part') parts.push({ ...event, bytes: Buffer.alloc(0) });
      const part = parts.at(-1);
      assert.ok(part !== undefined);
      if (event.type === 'data') part.bytes = Buffer.concat([part.bytes, event.bytes]);
      if (event.type === 'end') assert.equal(++ended, parts.length);
    }
  }
  parser.finish();
  return parts.map(({ name, filename, mime, bytes }) => ({ name, filename, mime, bytes }));
}

function write(boundary: string, parts: readonly Part[], preamble = '', epilogue = ''): Buffer {
  const all: Buffer[] = [Buffer.from(preamble)];
  parts.forEach(({ name, filename, mime, bytes }, i) => {
    const file = filename === null ? '' : `; filename="${filename}"`;
    const type = mime === null ? '' : `\r\ncontent-type: ${mime}`;
    const start = i === 0 && preamble === '' ? '' : '\r\n';
    all.push(
      Buffer.from(`${start}--${boundary}\r\nContent-Disposition: form-data; name="${name}"${file}${type}\r\n\r\n`),
    );
    all.push(bytes);
  });
  all.push(Buffer.from(`\r\n--${boundary}--${epilogue}`));
  return Buffer.concat(all);
}

/** Cuts at the given places, wherever they fall. */
function cut(body: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (body.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((from, i) => body.subarray(from, at[i] ?? body.length));
}

/** Bytes that like to look like delimiters. */
const tricky = fc
  .array(
    fc.constantFrom(
      '\r',
      '\n',
      '\r\n',
      '-',
      '--',
      '\r\n--',
      '\r\n--b',
      '\r\n--bo',
      '--bo',
      'b',
      'o',
      'x',
      '\u0000',
      'ä',
    ),
    {
      maxLength: 40,
    },
  )
  .map((pieces) => Buffer.from(pieces.join('')))
  .filter((bytes) => !`\r\n${bytes.toString('latin1')}\r\n`.includes('\r\n--bou'));

describe('multipart bodies', () => {
  it('come out as they went in, wherever the network cuts them', () => {
    const part = fc.record<Part>(
      {
        name: fc.constantFrom('file', 'purpose', 'a b', 'x[y]'),
        filename: fc.constantFrom(null, 'a.jsonl', 'ä b.png', ''),
        mime: fc.constantFrom(null, 'text/plain'),
        bytes: tricky,
      },
      { noNullPrototype: true },
    );
    fc.assert(
      fc.property(
        fc.array(part, { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(2_000), { maxLength: 30 }),
        fc.constantFrom('', 'a preamble'),
        fc.constantFrom('', '\r\n', '\r\nan epilogue'),
        (parts, places, preamble, epilogue) => {
          const body = write('bou', parts, preamble, epilogue);
          assert.deepEqual(parse('bou', cut(body, places)), parts);
          assert.deepEqual(
            parse(
              'bou',
              [...body].map((byte) => Uint8Array.of(byte)),
            ),
            parts,
          );
        },
      ),
      { numRuns: 400 },
    );
  });

  it('that are damaged are read or refused, never anything else', () => {
    const whole = write('bou', [
      { name: 'purpose', filename: null, mime: null, bytes: Buffer.from('batch') },
      { name: 'file', filename: 'a', mime: 'text/plain', bytes: Buffer.from('x\r\n--bo\r\n--') },
    ]);
    let refused = 0;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: -1, max: 255 })), { minLength: 1, maxLength: 6 }),
        fc.array(fc.nat(whole.length), { maxLength: 5 }),
        (changes, places) => {
          let body: Buffer = Buffer.from(whole);
          // A byte is changed, or (-1) all from there on is lost.
          for (const [at, byte] of changes) {
            if (byte < 0) body = body.subarray(0, at);
            else if (at < body.length) body[at] = byte;
          }
          try {
            parse('bou', cut(body, places));
          } catch (error) {
            assert.ok(error instanceof ApiError && error.status === 400, String(error));
            refused++;
          }
        },
      ),
      { numRuns: 3_000 },
    );
    assert.ok(refused > 100);
  });

  it('what fetch writes is read', async () => {
    const form = new FormData();
    form.set('purpose', 'user_data');
    form.set('file', new File([new Uint8Array([0, 13, 10, 45, 45, 255])], 'quote" ü\r\n.bin', { type: 'image/png' }));
    const request = new Request('http://x', { method: 'POST', body: form });
    const boundary = boundaryOf(request.headers.get('content-type') ?? '');
    const parts = parse(boundary, [new Uint8Array(await request.arrayBuffer())]);
    assert.deepEqual(
      parts.map(({ name, filename, mime, bytes }) => [name, filename, mime, [...bytes]]),
      [
        ['purpose', null, null, [...Buffer.from('user_data')]],
        ['file', 'quote" ü\r\n.bin', 'image/png', [0, 13, 10, 45, 45, 255]],
      ],
    );
  });

  it('filenames in every spelling', () => {
    const name = (disposition: string) =>
      parse('b', [Buffer.from(`--b\r\ncontent-disposition: form-data; ${disposition}\r\n\r\n\r\n--b--`)])[0]?.filename;
    assert.equal(name('name=file; filename=plain.txt'), 'plain.txt');
    assert.equal(name('name="file"; filename="a\\"b\\\\c"'), 'a"b\\c');
    assert.equal(name('name="file"; filename="a%22b"'), 'a"b');
    assert.equal(name(`name="file"; filename="x"; filename*=UTF-8''%C3%A4.txt`), 'ä.txt');
    assert.equal(name('filename="f"; name="file"'), 'f');
    assert.equal(name('name="file"'), null);
  });

  it('is quick with megabytes, also of line ends', () => {
    for (const fill of ['x', '\r\n', '\r\n--bo', '-']) {
      const bytes = Buffer.alloc(16 << 20, fill);
      const body = write('bou', [{ name: 'file', filename: 'f', mime: null, bytes }]);
      const parser = new MultipartParser('bou');
      const startMs = performance.now();
      let seen = 0;
      for (let at = 0; at < body.length; at += 65_536)
        for (const event of parser.push(body.subarray(at, at + 65_536)))
          if (event.type === 'data') seen += event.bytes.length;
      parser.finish();
      assert.equal(seen, bytes.length);
      assert.ok(performance.now() - startMs < 20_000, `${fill}: ${performance.now() - startMs} ms`);
    }
  });

  it('what is no multipart body is refused in words', () => {
    const refused = (run: () => unknown, pattern: RegExp) =>
      assert.throws(run, (error) => error instanceof ApiError && pattern.test(error.message));
    refused(() => boundaryOf('application/json'), /expected multipart\/form-data/);
    refused(() => boundaryOf('multipart/form-data'), /boundary/);
    refused(() => boundaryOf(`multipart/form-data; boundary=${'x'.repeat(71)}`), /boundary/);
    assert.equal(boundaryOf('Multipart/Form-Data; charset=utf-8; boundary="a b"'), 'a b');
    const parsed = (text: string) => () => parse('b', [Buffer.from(text)]);
    refused(parsed(''), /ends before its last boundary/);
    refused(parsed('--b\r\ncontent-disposition: form-data; name="x"\r\n\r\nhalf'), /ends before/);
    refused(parsed('--b\r\n\r\nx\r\n--b--'), /name=/);
    refused(parsed('--b\r\ncontent-disposition: attachment; name="x"\r\n\r\n\r\n--b--'), /form-data; name=/);
    refused(parsed('--bcontinued\r\n'), /text after a boundary/);
    refused(parsed('x'.repeat(10_000)), /begin with its boundary/);
    refused(parsed(`--b\r\nx: ${'y'.repeat(9_000)}`), /bytes of headers/);
  });
});
