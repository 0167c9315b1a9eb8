/**
 * `npm run bench -- NAME [options]` runs one benchmark; without a name it lists them. Each ends with one line of JSON.
 */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const BENCHMARKS: Readonly<Record<string, string>> = {
  inference: 'decoding, prefill and served requests against transformers.js, llama.cpp and PyTorch',
  'decoder-graphs': 'graphs of the decoder against each other: weights, caches, prompts',
  resume: 'fine-tunes that are killed, stopped and damaged: whether they end at the same bits',
  'read-data': 'training data read into a store, by container: rate and memory',
  packing: 'packed rows against padded ones on real conversations, and whether they are learned by heart',
  together: 'fine-tunes over one base in one process, against one process each: time, memory, bits',
  'train-beside': 'answers with and without a fine-tuning job on the same machine',
  'train-throughput': 'optimizer steps against transformers and PEFT: tokens a second and memory',
  'frozen-base': 'what a base in fewer bits costs: weights, loss, gradients, bytes',
  'staged-nlvr': 'a staged job on NLVR from an untrained projector: LoRA against full tuning',
  'quant-agreement': 'answers of quantised weights against those of f32',
  precision: 'answers and logits of every format of weights, keys and values against those of f32, through the engine',
  batches: 'a batch against the same lines sent by sixteen clients',
  batching: 'whether batches, reuse, preemption, adapters or speculation change any answer',
  reuse: 'ten questions about the same pictures, with and without what is kept of them',
  responsive: '/health beside long prompts, aborted requests, and 200 streams at once',
  'edge-hop': 'latency the door adds, requests it forwards, lag of tokens behind it, its size',
  overload: 'more requests than can be answered, clients that retry or hang up, backends that fail',
  chaos: 'backends that come, go and are killed under load: answers, errors, orphans',
  'cold-start': 'from no backend to the first token, by phase',
  eval: 'nano on NLVR dev through the evaluation runner, against one request at a time',
  learned: 'the bundled model against its bars: NLVR dev with controls, the four skills on few and many pictures',
  generated: 'requests made from the OpenAPI document: no fault of ours, and refusals that help',
  'slow-clients': 'a thousand clients that take their time, and whether others notice',
  'import-large': 'importing a checkpoint of several gigabytes: rate and memory',
  'feature-tiers': 'finding features of pictures on disk and in the object store',
  'mask-cost': 'what following a JSON schema costs a token',
  structured: 'answers of the shipped model to random schemas, checked by another validator',
  auth: 'what checking keys and signatures costs, and every route with every kind of credential',
  ssrf: 'whether any address of a picture or webhook leads to a private one',
  'rate-limits': 'how exact limits of keys are, and what asking costs',
  cron: 'thirty days of schedules with missing, doubled and late ticks and outages, against an independent model',
  webhooks:
    'webhooks through faults and kills under a virtual clock, each verified by others; endpoints that hang beside others',
  simulation: 'the control plane under simulated faults: every seed keeps its promises, planted bugs are found',
  idempotency: 'jobs created under keys by clients that repeat themselves and break off',
  gpu: 'serving and training steps on accelerators, and tokens by the loop',
  preprocess: 'nine 1080p pictures from a request to tensors, against a plain sharp loop; memory by kind of picture',
  'hostile-images':
    'mutations, bombs and valid pictures of every kind through the door: codes, times, memory, neighbours',
  chart: 'the charts of stored results, as SVG',
};

const [name, ...args] = process.argv.slice(2);
if (name === undefined || !(name in BENCHMARKS)) {
  if (name !== undefined) console.error(`there is no benchmark ${name}\n`);
  console.error('npm run bench -- NAME [options]\n');
  for (const [known, about] of Object.entries(BENCHMARKS)) console.error(`  ${known.padEnd(18)}${about}`);
  process.exitCode = name === undefined ? 0 : 1;
} else {
  const file = join(import.meta.dirname, `${name}.ts`);
  process.argv = [process.argv[0] ?? '', file, ...args];
  await import(pathToFileURL(file).href);
}
