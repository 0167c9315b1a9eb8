/** Spellings of data URLs: what a person could mean is taken, everything else refused by name, at once. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { type Installation, startInstallation } from './installation.ts';

const base64 = Buffer.from(png(8, 8)).toString('base64');
const padded = base64.replace(/=*$/, '');
const everyFew = (text: string, by: string, every = 76) => text.replace(new RegExp(`.{${every}}`, 'g'), `$&${by}`);

const CASES: readonly [name: string, url: string, code: string | null][] = [
  ['plain', `data:image/png;base64,${base64}`, null],
  ['type in upper case', `data:IMAGE/PNG;base64,${base64}`, null],
  ['marker in upper case', `data:image/png;BASE64,${base64}`, null],
  ['a parameter', `data:image/png;charset=utf-8;base64,${base64}`, null],
  ['spaces in the head', `data: image/png ; base64 ,${base64}`, null],
  ['line breaks', `data:image/png;base64,${everyFew(base64, '\r\n')}`, null],
  ['spaces and tabs', `data:image/png;base64, ${everyFew(base64, ' \t', 4)}`, null],
  ['no padding', `data:image/png;base64,${padded}`, null],
  ['scheme in upper case', `DATA:image/png;base64,${base64}`, null],
  ['url-safe alphabet', `data:image/png;base64,${base64}-_`, 'invalid_base64_image'],
  ['percent-encoded padding', `data:image/png;base64,${padded}%3D`, 'invalid_base64_image'],
  ['percent-encoded bytes', 'data:image/png,%89PNG%0D%0A', 'invalid_image_url'],
  ['padding in the middle', `data:image/png;base64,${base64.slice(0, 8)}==${base64.slice(8)}`, 'invalid_base64_image'],
  ['too much padding', `data:image/png;base64,${padded}=====`, 'invalid_base64_image'],
  ['one character', 'data:image/png;base64,A', 'invalid_base64_image'],
  ['a NUL', `data:image/png;base64,${base64}\0`, 'invalid_base64_image'],
  ['a second data URL behind a comma', `data:image/png;base64,${base64},${base64}`, 'invalid_base64_image'],
  [
    'many frames by commas',
    `data:video/jpeg;base64,${Array(2_000).fill(base64).join(',')}`,
    'unsupported_image_media_type',
  ],
  ['empty', 'data:image/png;base64,', 'empty_image_file'],
  ['nothing but spaces', 'data:image/png;base64,    ', 'empty_image_file'],
  ['no marker', `data:image/png,${base64}`, 'invalid_image_url'],
  ['no comma', `data:image/png;base64${base64}`, 'invalid_image_url'],
  ['no type', `data:;base64,${base64}`, 'unsupported_image_media_type'],
  ['only a scheme', 'data:', 'invalid_image_url'],
  ['a wrong type', `data:image/jpeg;base64,${base64}`, 'invalid_image_format'],
  ['an unknown type', `data:image/x-png;base64,${base64}`, 'unsupported_image_media_type'],
  ['a text type', `data:text/plain;base64,${base64}`, 'unsupported_image_media_type'],
  ['svg', 'data:image/svg+xml;base64,PHN2Zy8+', 'unsupported_image_media_type'],
  ['svg as png', 'data:image/png;base64,PHN2Zy8+', 'invalid_image_format'],
  ['millions of parameters', `data:image/png${';x'.repeat(2_000_000)};base64,${base64}`, 'invalid_image_url'],
  ['millions of semicolons', `data:${';'.repeat(4_000_000)}`, 'invalid_image_url'],
  ['megabytes that are no base64', `data:image/png;base64,${'@'.repeat(4_000_000)}`, 'invalid_base64_image'],
  ['megabytes of spaces', `data:image/png;base64,${' '.repeat(4_000_000)}${base64}`, null],
  [
    'one byte too many',
    `data:image/png;base64,${Buffer.alloc(LIMITS.images.maxBytes + 1).toString('base64')}`,
    'image_file_too_large',
  ],
  ['far too many', `data:image/png;base64,${'A'.repeat(18_000_000)}`, 'image_file_too_large'],
];

let door: Installation;
let backend: FaultBackend;
before(async () => {
  door = await startInstallation();
  backend = await FaultBackend.join(door);
});
after(async () => {
  await backend.close();
  await door.close();
});

describe('a data URL', () => {
  for (const [name, url, code] of CASES) {
    it(`${name}: ${code ?? 'taken'}`, async () => {
      const startMs = performance.now();
      const { status, body } = await door.call('POST', '/v1/chat/completions', {
        model: FAULT_CARD.id,
        messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }],
      });
      const tookMs = performance.now() - startMs;
      const { error } = body as Partial<ErrorEnvelope>;
      assert.equal(error?.code ?? null, code, `${status} ${error?.message}`);
      if (code === null) return assert.equal(status, 200);
      assert.ok(
        status >= 400 && status < 500 && error?.param === 'messages[0].content[0].image_url',
        `${status} ${error?.param}`,
      );
      assert.ok((error?.message.length ?? 0) < 400, 'does not repeat what came');
      assert.ok(tookMs < 10_000, `${tookMs} ms`);
    });
  }
});
