import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { alive, type Backend, pick, servedModels } from '../../../edge/fleet/pick.ts';
import type { BackendReport } from '../../../shared/contract/backend.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';

const card = (id: string): ModelCard => ({
  id,
  family: 'mantis',
  created: 0,
  contextTokens: 100,
  tokensPerImage: 10,
  imageWidth: 8,
  imageHeight: 8,
  maxImages: 4,
  maxNewTokens: 10,
  capabilities: { chat: true, fineTune: [] },
  digest: 'sha256:0',
});

const backend = (id: string, more: Partial<BackendReport> = {}, seenAtMs = 0): Backend => ({
  report: { id, url: `http://${id}`, models: [card('m')], capacity: 4, inFlight: 0, state: 'ready', ...more },
  seenAtMs,
});

const request = (more: object = {}) => ({ model: 'm', exclude: new Set<string>(), roll: 0, ...more });

describe('pick', () => {
  it('takes the least loaded by share of capacity', () => {
    const list = [
      backend('a', { inFlight: 2 }),
      backend('b', { inFlight: 3, capacity: 8 }),
      backend('c', { inFlight: 4 }),
    ];
    assert.equal(pick(list, request())?.id, 'b');
  });

  it('leaves out draining ones, other models and those that failed', () => {
    const list = [
      backend('a', { state: 'draining' }),
      backend('b', { models: [card('x')] }),
      backend('c'),
      backend('d', { inFlight: 1 }),
    ];
    assert.equal(pick(list, request())?.id, 'c');
    assert.equal(pick(list, request({ exclude: new Set(['c']) }))?.id, 'd');
    assert.equal(pick(list, request({ exclude: new Set(['c', 'd']) })), null);
  });

  it('breaks ties by the roll', () => {
    const list = ['a', 'b', 'c', 'd'].map((id) => backend(id));
    assert.deepEqual(
      [0, 0.26, 0.51, 0.999].map((roll) => pick(list, request({ roll }))?.id),
      ['a', 'b', 'c', 'd'],
    );
  });
});

describe('fleet', () => {
  it('forgets whom it has not heard of', () => {
    const list = [backend('a', {}, 0), backend('b', {}, 500)];
    assert.deepEqual(
      alive(list, 1000, 1000).map(({ report }) => report.id),
      ['a', 'b'],
    );
    assert.deepEqual(
      alive(list, 1001, 1000).map(({ report }) => report.id),
      ['b'],
    );
  });

  it('lists each model once', () => {
    const list = [backend('a'), backend('b', { models: [card('m'), card('n')] })];
    assert.deepEqual([...servedModels(list).keys()], ['m', 'n']);
  });
});
