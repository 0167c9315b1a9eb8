import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { Environment, parseConfig } from '../../../gpu-backend/config.ts';

const secret = 'sixteen characters';

describe('parseConfig', () => {
  it('needs a secret only; the rest has defaults', () => {
    const config = parseConfig({ MANTIS_BACKEND_SECRET: secret });
    assert.equal(config.port, 0);
    assert.equal(config.host, '127.0.0.1');
    assert.equal(config.models[0]?.id, 'mantis-nano');
    assert.equal(config.edgeUrl, null);
  });
  it('reads a list of models', () => {
    const { models } = parseConfig({ MANTIS_BACKEND_SECRET: secret, MANTIS_MODELS: 'a=/x, b=/y=z' });
    assert.deepEqual(models, [
      { id: 'a', dir: '/x' },
      { id: 'b', dir: '/y=z' },
    ]);
  });
  it('reads an adapter behind its base', () => {
    const read = (models: string) => parseConfig({ MANTIS_BACKEND_SECRET: secret, MANTIS_MODELS: models }).models;
    assert.deepEqual(read('a=/x,b=/x::/lora'), [
      { id: 'a', dir: '/x' },
      { id: 'b', dir: '/x', adapterDir: '/lora' },
    ]);
    for (const wrong of ['b=/x::', 'b=::/lora', 'b=/x::/y::/z'])
      assert.throws(() => read(wrong), /expected "id=folder" or "id=folder::adapter"/);
  });
  it('reads formats of weights, keys and values', () => {
    const read = (more: Record<string, string>) => parseConfig({ MANTIS_BACKEND_SECRET: secret, ...more }).precision;
    assert.deepEqual(read({}), { weights: 'auto', kv: 'auto' });
    assert.deepEqual(read({ MANTIS_PRECISION: 'f32', MANTIS_KV: 'int8' }), { weights: { name: 'f32' }, kv: 'int8' });
    const { weights } = read({ MANTIS_PRECISION: 'decoder=int4,head=int8' });
    assert.ok(weights !== 'auto');
    assert.equal(weights.storage?.precision.decoder, 'int4');
    assert.throws(
      () => read({ MANTIS_PRECISION: 'int3', MANTIS_KV: 'f16' }),
      /MANTIS_PRECISION.*auto, one of f32.*MANTIS_KV/s,
    );
  });
  it('knows how ONNX Runtime may be called', () => {
    parseConfig({ MANTIS_BACKEND_SECRET: secret, MANTIS_BINDING: 'node' });
    assert.throws(
      () => parseConfig({ MANTIS_BACKEND_SECRET: secret, MANTIS_BINDING: 'ffi' }),
      /MANTIS_BINDING: expected one of "auto", "node", "native", received "ffi"/,
    );
  });
  it('has every variable on the page of settings', () => {
    const page = readFileSync(new URL('../../../deploy/README.md', import.meta.url), 'utf8');
    // The start process sets this one for its child.
    const names = Object.keys(Environment.shape).filter((name) => name !== 'MANTIS_PARENT_PID');
    assert.deepEqual(
      names.filter((name) => !page.includes(`\`${name}\``)),
      [],
    );
  });
  it('names every variable at fault at once and never shows the secret', () => {
    const environment = { MANTIS_BACKEND_SECRET: 'short-one', MANTIS_BACKEND_PORT: 'abc', MANTIS_THREADS: '0' };
    assert.throws(
      () => parseConfig(environment),
      (error: Error) =>
        /MANTIS_BACKEND_SECRET/.test(error.message) &&
        /MANTIS_BACKEND_PORT.*"abc"/.test(error.message) &&
        /MANTIS_THREADS/.test(error.message) &&
        !error.message.includes('short-one'),
    );
  });
});
