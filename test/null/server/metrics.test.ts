import assert from 'node:assert/strict';
import { it } from 'node:test';
import { EngineCounters } from '../../../gpu-backend/engine/counters.ts';
import type { ServiceStats } from '../../../gpu-backend/engine/service.ts';
import { createMetrics } from '../../../gpu-backend/server/metrics.ts';

it('sums and levels of the engine come under vLLM’s names, with its meanings', async () => {
  const counters = new EngineCounters();
  const stats: ServiceStats = {
    models: [
      {
        model: 'nano',
        running: 2,
        waiting: 3,
        kvTokens: 256,
        kvBytes: 4096,
        kvBudgetTokens: 1024,
        prefixBytes: 777,
        counters,
        prefixes: { queries: 4, queryTokens: 400, hits: 3, hitTokens: 250, evictions: 5, refused: 0 },
      },
    ],
    cache: { bytes: 0, entries: 0, queries: 0, hits: 0, evictions: 0 },
    pictures: { asked: 0, memory: 0, disk: 0, objects: 0, decoded: 0 },
    featureTiers: [],
  };
  const { registry } = createMetrics(async () => stats);
  const scrape = async () => {
    const lines = (await registry.metrics()).split('\n');
    const lineOf = (name: string) => lines.find((line) => line.startsWith(`mantis_${name}{model_name="nano"} `));
    return { lines, value: (name: string) => Number(lineOf(name)?.split(' ').at(-1)) };
  };
  Object.assign(counters, {
    promptTokens: 150,
    cachedTokens: 250,
    preemptions: 6,
    draftedTokens: 9,
    acceptedTokens: 8,
  });
  const first = await scrape();
  assert.equal(first.value('kv_cache_usage_perc'), 0.25);
  assert.equal(first.value('prefix_cache_bytes'), 777);
  assert.equal(first.value('prefix_cache_queries_total'), 400, 'tokens, not look-ups');
  assert.equal(first.value('prefix_cache_hits_total'), 250);
  assert.equal(first.value('prefix_cache_evictions_total'), 5);
  assert.equal(first.value('prompt_tokens_computed_total'), 150);
  assert.equal(first.value('prompt_tokens_cached_total'), 250);
  assert.equal(first.value('num_preemptions_total'), 6);
  assert.equal(first.value('spec_decode_num_draft_tokens_total'), 9);
  assert.equal(first.value('spec_decode_num_accepted_tokens_total'), 8);
  assert.ok(first.lines.includes('# TYPE mantis_prefix_cache_hits_total counter'));
  // The engine's sums are copied, not added to what the last scrape saw.
  counters.preemptions = 7;
  for (const { value } of await Promise.all([scrape(), scrape(), scrape()]))
    assert.equal(value('num_preemptions_total'), 7);
});
