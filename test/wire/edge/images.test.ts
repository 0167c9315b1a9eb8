/** Where pictures may come from, through the real Worker: what is fetched, what is refused, how often a picture travels. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { toFile } from 'openai';
import { BlobCache } from '../../../gpu-backend/server/blob-cache.ts';
import type { ErrorEnvelope } from '../../../shared/contract/errors.ts';
import { LIMITS } from '../../../shared/contract/limits.ts';
import { avif, gif, png } from '../../null/edge/pictures.ts';
import { FAULT_CARD, FaultBackend } from './fault-backend.ts';
import { type Installation, startInstallation } from './installation.ts';
import { Origin, redirectRaw } from './origin.ts';

const L = LIMITS.images;
const R = L.remote;

let door: Installation;
let backend: FaultBackend;
let origin: Origin;

before(async () => {
  origin = await Origin.start();
  door = await startInstallation({ egressAllow: origin.host });
  backend = await FaultBackend.join(door);
});
after(async () => {
  await backend.close();
  await door.close();
  await origin.close();
});

/** A PNG with rubbish of that size behind its header: enough for a probe; each is another one. */
function large(bytes: number): Uint8Array {
  const head = png(8, 8);
  const data = randomBytes(bytes - head.byteLength - 12);
  const chunk = Buffer.alloc(data.byteLength + 12);
  chunk.writeUInt32BE(data.byteLength, 0);
  chunk.write('teSt', 4, 'latin1');
  data.copy(chunk, 8);
  return Buffer.concat([head.subarray(0, 33), chunk, head.subarray(33)]);
}

const part = (url: string) => ({ type: 'image_url', image_url: { url } });
const dataUrl = (bytes: Uint8Array, mime = 'image/png') =>
  `data:${mime};base64,${Buffer.from(bytes).toString('base64')}`;
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

async function ask(...urls: string[]) {
  const content = [{ type: 'text', text: 'What is it?' }, ...urls.map(part)];
  const { status, body } = await door.call('POST', '/v1/chat/completions', {
    model: FAULT_CARD.id,
    messages: [{ role: 'user', content }],
  });
  const { error } = body as Partial<ErrorEnvelope>;
  const problems = (error?.details ?? []).map(({ code, param, message }) => ({
    code,
    at: Number(/content\[(\d+)\]/.exec(param ?? '')?.[1]) - 1,
    message,
  }));
  return { status, problems, error };
}

async function upload(bytes: Uint8Array): Promise<string> {
  const file = await toFile(Buffer.from(bytes), 'picture.png');
  return (await door.openai.files.create({ file, purpose: 'vision' })).id;
}

/** Digests of the pictures in the last request that a backend saw. */
const lastBlobs = () => (backend.seen.at(-1)?.blobs ?? []).map(sha256);

describe('references', () => {
  it('may be data URL, https address, file id and digest, and equal bytes are one picture', async () => {
    const picture = large(4_000);
    origin.serve('/picture.png', picture, { 'content-type': 'text/html' });
    const id = await upload(picture);
    const { status, error } = await ask(
      dataUrl(picture),
      origin.url('/picture.png'),
      id,
      sha256(picture),
      origin.url('/picture.png?again'),
    );
    assert.equal(status, 200, JSON.stringify(error));
    assert.deepEqual(lastBlobs(), [sha256(picture)]);
    const parts = backend.seen.at(-1)?.request.messages[0]?.parts ?? [];
    assert.deepEqual(
      parts.slice(1),
      Array.from({ length: 5 }, () => ({ type: 'image', blob: 0 })),
    );
  });

  it('by digest find only what was uploaded', async () => {
    const { status, problems } = await ask(`sha256:${'0'.repeat(64)}`, 'sha256:abc', 'file-000', 'ftp://example.com/x');
    assert.equal(status, 404);
    assert.deepEqual(
      problems.map(({ code, at }) => [code, at]),
      [
        ['image_file_not_found', 0],
        ['invalid_image_url', 1],
        ['image_file_not_found', 2],
        ['invalid_image_url', 3],
      ],
    );
  });

  it('take the first frame of an animation, and AVIF within its limit', async () => {
    assert.equal((await ask(dataUrl(gif(8, 8, 3), 'image/gif'), dataUrl(avif('alpha'), 'image/avif'))).status, 200);
    const { problems } = await ask(dataUrl(avif('plain', { width: 4096, height: 4096 }), 'image/avif'));
    assert.deepEqual(
      problems.map(({ code }) => code),
      ['image_too_large'],
    );
  });
});

describe('of another tenant', () => {
  it('pictures are as good as not there, by id, by digest and on the inner hop', async () => {
    const picture = large(30_000);
    const id = await upload(picture);
    const made = await door.call('POST', '/v1/admin/tenants', { name: 'other' });
    const tenant = (made.body as { id: string }).id;
    const key = await door.call('POST', '/v1/admin/keys', { name: 'other', tenant, scopes: ['inference'] });
    const { secret } = key.body as { secret: string };
    const authorization = { authorization: `Bearer ${secret}` };
    const asOther = async (url: string) => {
      const body = { model: FAULT_CARD.id, messages: [{ role: 'user', content: [part(url)] }] };
      const answer = await door.call('POST', '/v1/chat/completions', body, authorization);
      const { message, code } = (answer.body as Partial<ErrorEnvelope>).error ?? {};
      return { status: answer.status, code, message: message?.replace(/"(file-|sha256:).*?"/, '"…"') };
    };
    assert.equal((await ask(id)).status, 200);
    assert.deepEqual(await asOther(id), await asOther('file-000000000000000000000000'));
    assert.deepEqual(await asOther(sha256(picture)), await asOther(`sha256:${'1'.repeat(64)}`));
    assert.equal((await asOther(sha256(picture))).code, 'image_file_not_found');
    // The backend has the picture, for the first tenant; from the second one it comes whole.
    assert.equal((await asOther(dataUrl(picture))).status, 200);
    assert.ok((backend.bodyBytes.at(-1) ?? 0) > 30_000);
  });
});

describe('pictures on the web', () => {
  it('are asked for without cookies, keys and referrer', async () => {
    origin.serve('/headers.png', large(3_000), { 'set-cookie': 'a=b' });
    await ask(origin.url('/headers.png'));
    await ask(origin.url('/headers.png?2'));
    const { headers } = origin.seen.at(-1)!;
    assert.equal(headers['user-agent'], 'mantis-edge-images/1');
    for (const name of ['cookie', 'authorization', 'referer', 'x-request-id', 'x-mantis-signature'])
      assert.equal(headers[name], undefined, name);
  });

  it('are refused each with its path and a reason of one class; what is wrong elsewhere is said too', async () => {
    origin
      .serve('/ok.png', large(3_000))
      .serve('/page', Buffer.from('<!doctype html><html><body>secret words</body></html>'))
      .serve('/empty', new Uint8Array(0))
      .serve('/huge-header.png', png(20_000, 10))
      .on('/teapot', (_, response) => response.writeHead(418).end('short and stout'))
      .on('/lie', (_, response) => response.writeHead(200, { 'content-length': String(L.maxBytes + 1) }).end())
      .on('/dropped', (_, response) => response.socket?.destroy());
    const paths = ['/ok.png', '/page', '/teapot', '/lie', '/dropped', '/empty', '/huge-header.png', '/missing'];
    const { status, problems } = await ask(
      ...paths.map((path) => origin.url(path)),
      'data:image/png;base64,@@',
      'https://127.0.0.1/',
    );
    assert.equal(status, 400);
    const reasons = new Map(problems.map(({ at, code, message }) => [at, `${code}: ${message}`]));
    const failed = (at: number, reason: RegExp) => {
      assert.match(reasons.get(at) ?? '', /^failed_to_download_image: messages\[0\]\.content\[\d+\]\.image_url/);
      assert.match(reasons.get(at) ?? '', reason);
    };
    assert.equal(reasons.get(0), undefined);
    failed(1, /received something that is no picture/);
    failed(2, /received an answer with a status other than 200/);
    failed(3, /received too many bytes/);
    failed(4, /received nothing, it cannot be reached/);
    failed(5, /received something that is no picture/);
    assert.match(reasons.get(6) ?? '', /^image_too_large: .*20000x10/);
    failed(7, /received an answer with a status other than 200/);
    assert.match(reasons.get(8) ?? '', /^invalid_base64_image/);
    failed(9, /received an address that is not public or not https/);
    assert.ok(![...reasons.values()].join().match(/418|404|secret|short and stout/), 'says nothing of what was there');
  });

  it('may redirect three times and no more', async () => {
    origin.serve('/end.png', large(3_000));
    origin.on('/hop/*', (request, response) => {
      const left = Number(request.url?.split('/').at(-1));
      redirectRaw(response, left === 0 ? '/end.png' : `${left - 1}`);
    });
    // /hop/n takes n + 1 redirects.
    assert.equal((await ask(origin.url(`/hop/${R.maxRedirects - 1}`))).status, 200);
    const { problems } = await ask(origin.url(`/hop/${R.maxRedirects}`));
    assert.match(problems[0]?.message ?? '', /more than 3 redirects/);
  });

  it('hold to the limit of bytes exactly, told or not', async () => {
    const [fits, over] = [large(L.maxBytes), large(L.maxBytes + 1)];
    origin.serve('/fits', fits).serve('/over', over);
    origin.on('/fits-chunked', (_, response) => response.writeHead(200).end(fits));
    origin.on('/over-chunked', (_, response) => response.writeHead(200).end(over));
    for (const path of ['/fits', '/fits-chunked']) assert.equal((await ask(origin.url(path))).status, 200, path);
    for (const path of ['/over', '/over-chunked']) {
      const { problems } = await ask(origin.url(path));
      assert.match(problems[0]?.message ?? '', /received too many bytes/, path);
    }
  });

  it('share one budget of bytes with the other pictures of the request', async () => {
    const half = L.maxTotalBytes / 2;
    const pictures = [large(half), large(half), large(2_000)];
    origin.serve('/part/0', pictures[0]!).serve('/part/1', pictures[1]!).serve('/part/2', pictures[2]!);
    assert.equal((await ask(origin.url('/part/0'), origin.url('/part/1'))).status, 200);
    const { status, problems } = await ask(dataUrl(pictures[2]!), origin.url('/part/0'), origin.url('/part/1'));
    assert.equal(status, 400);
    assert.deepEqual(
      problems.map(({ code }) => code),
      ['failed_to_download_image'],
    );
    // The same picture twice counts once.
    const small = large(4 << 20);
    origin.serve('/rest', large(L.maxBytes)).serve('/again', small);
    assert.equal((await ask(dataUrl(small), dataUrl(small), origin.url('/rest'))).status, 200);
  });

  it('are not read beyond the limit: an endless one costs little more', async () => {
    let written = 0;
    origin.on('/endless', (_, response) => {
      const block = Buffer.alloc(1 << 20);
      response.writeHead(200);
      const push = () => {
        while (!response.destroyed && response.write(block)) written += block.byteLength;
        if (!response.destroyed) response.once('drain', push);
      };
      push();
    });
    const { problems } = await ask(origin.url('/endless'));
    assert.match(problems[0]?.message ?? '', /too many bytes/);
    await sleep(200);
    // Socket buffers on both ends hold some megabytes.
    assert.ok(written < L.maxBytes + 16 * 2 ** 20, `${written} bytes left the origin`);
  });

  it('are not unpacked beyond the limit', async () => {
    const { gzipSync } = await import('node:zlib');
    const bomb = gzipSync(Buffer.alloc(256 << 20), { level: 9 });
    origin.serve('/bomb', bomb, { 'content-encoding': 'gzip' });
    const { problems } = await ask(origin.url('/bomb'));
    assert.match(problems[0]?.message ?? '', /too many bytes|no picture/);
  });

  it('must begin and end in time', { timeout: 90_000 }, async () => {
    origin.on('/silent', () => {});
    origin.on('/slow', (_, response) => {
      response.writeHead(200);
      response.write(png(4, 4).subarray(0, 20));
      const drip = setInterval(() => response.write('x'), 200);
      response.on('close', () => clearInterval(drip));
    });
    const startMs = Date.now();
    const { problems } = await ask(origin.url('/silent'), origin.url('/slow'), origin.url('/end.png'));
    const tookMs = Date.now() - startMs;
    assert.deepEqual(
      problems.map(({ at }) => at),
      [0, 1],
    );
    for (const { message } of problems) assert.match(message, /too little in too long a time/);
    assert.ok(tookMs > R.totalMs - 500 && tookMs < R.totalMs + 10_000, `${tookMs} ms`);
  });

  it('are fetched six at a time, sixteen at most', async () => {
    origin.on('/many/*', (_, response) => void setTimeout(() => response.writeHead(404).end(), 60));
    await sleep(100);
    origin.mostOpen = origin.open;
    const before = origin.seen.length;
    const { problems } = await ask(...Array.from({ length: R.maxPerRequest + 1 }, (_, i) => origin.url(`/many/${i}`)));
    assert.equal(origin.seen.length - before, R.maxPerRequest);
    assert.ok(origin.mostOpen <= R.maxConcurrent + 3, `${origin.mostOpen} connections at a time`);
    assert.equal(problems.at(-1)?.code, 'too_many_images');
    assert.match(problems.at(-1)?.message ?? '', /at most 16 pictures on the web, received 17/);
  });
});

describe('hostile origins', () => {
  it('a flood of large downloads is told to come back, and stops nobody else', { timeout: 90_000 }, async () => {
    const block = Buffer.alloc(1 << 20);
    const holding: ServerResponse[] = [];
    // Eight megabytes at once, then nothing: what is held stays held.
    origin.on('/hold/*', (_, response) => {
      holding.push(response);
      response.writeHead(200);
      for (let i = 0; i < 8; i++) response.write(block);
    });
    const floods = Array.from({ length: 20 }, (_, i) => ask(origin.url(`/hold/${i}`)));
    await sleep(1_500);
    const startMs = performance.now();
    const { status } = await ask(dataUrl(png(9, 9)));
    const tookMs = performance.now() - startMs;
    for (const response of holding) response.destroy();
    const statuses = (await Promise.all(floods)).map((flood) => flood.status).sort();
    assert.equal(status, 200);
    assert.ok(tookMs < 8_000, `${tookMs} ms`);
    assert.deepEqual([...new Set(statuses)], [400, 503]);
    const held = statuses.filter((one) => one === 400).length * 8 * 2 ** 20;
    assert.ok(held <= R.maxHeldBytesPerTenant, `${held} bytes were held`);
    // All that was held is given back.
    assert.equal((await ask(origin.url('/part/0'), origin.url('/part/1'))).status, 200);
  });
});

describe('limits of a request', () => {
  it('are exact in pixels, over all different pictures', async () => {
    const shapes: [number, number][] = [
      [10_000, 5_000],
      [5_000, 10_000],
      [8_000, 6_250],
      [6_250, 8_000],
    ];
    assert.equal(
      shapes.reduce((sum, [width, height]) => sum + width * height, 0),
      L.maxTotalPixels,
    );
    const urls = shapes.map(([width, height]) => dataUrl(png(width, height)));
    assert.equal((await ask(...urls, urls[0]!)).status, 200);
    const { status, problems } = await ask(dataUrl(png(1, 1)), ...urls);
    assert.equal(status, 400);
    assert.deepEqual(
      problems.map(({ code, at }) => [code, at]),
      [['image_too_large', 4]],
    );
    assert.match(problems[0]?.message ?? '', /at most 200000000 pixels in all pictures, received 200000001/);
  });

  it('count equal pictures once and name the one that is too much', async () => {
    const most = large(L.maxBytes);
    const rest = large(L.maxTotalBytes - L.maxBytes);
    const [a, b] = [await upload(most), await upload(rest)];
    assert.equal((await ask(a, b, a, sha256(rest))).status, 200);
    const { status, problems } = await ask(a, b, dataUrl(png(3, 3)));
    assert.equal(status, 413);
    assert.equal(problems.length, 1);
    assert.match(problems[0]?.message ?? '', new RegExp(`at most ${L.maxTotalBytes} bytes in all pictures`));
  });
});

describe('between edge and backend', () => {
  it('a picture travels once, and again when the backend has dropped it', async () => {
    const pictures = [large(50_000), large(60_000)];
    const urls = pictures.map((bytes) => dataUrl(bytes));
    const bytesOf = async (...named: string[]) => {
      const from = backend.bodyBytes.length;
      assert.equal((await ask(...named)).status, 200);
      return backend.bodyBytes.slice(from);
    };
    const [first = 0] = await bytesOf(...urls);
    assert.ok(first > 110_000, `${first}`);
    const [second = 0, ...none] = await bytesOf(urls[1]!, urls[0]!, urls[1]!);
    assert.ok(second < 2_000 && none.length === 0, `${second}`);
    assert.deepEqual(lastBlobs(), [pictures[1]!, pictures[0]!].map(sha256));
    backend.pictures = new BlobCache(64 << 20);
    const [asked = 0, whole = 0] = await bytesOf(...urls);
    assert.ok(asked < 2_000 && whole > 110_000, `${asked} ${whole}`);
    assert.deepEqual(lastBlobs(), pictures.map(sha256));
    const [again = 0] = await bytesOf(...urls);
    assert.ok(again < 2_000, `${again}`);
  });
});
