/** Answers drawn at random under a constraint, as a model without any sense would give them. */
import { readFileSync } from 'node:fs';
import { ConstraintCompiler, type ConstraintSpec } from '../../../../gpu-backend/engine/grammar/constraint.ts';
import type { Writer } from '../../../../gpu-backend/engine/grammar/vocabulary.ts';
import { uniform } from '../../../../gpu-backend/engine/random.ts';
import { RequestSampler } from '../../../../gpu-backend/engine/request-sampler.ts';
import { parseTokenizer, type Tokenizer } from '../../../../gpu-backend/text/tokenizer.ts';

/** A tokenizer of `test/fixtures/tokenizers`, or of the model that ships with the product. */
export function tokenizerOf(name: 'byte-level' | 'metaspace' | 'unigram' | 'nano'): Tokenizer {
  const file =
    name === 'nano'
      ? new URL('../../../../gpu-backend/models/nano/tokenizer.json', import.meta.url)
      : new URL(`../../../fixtures/tokenizers/${name}.json`, import.meta.url);
  return parseTokenizer(JSON.parse(readFileSync(file, 'utf8')));
}

const compiler = new ConstraintCompiler();

export interface Answer {
  readonly text: string;
  readonly ids: readonly number[];
  /** Ended by itself, before the limit. */
  readonly isWhole: boolean;
}

/** One answer of a "model" whose logits are noise, different for each seed. Its last logit is the end token's. */
export function randomAnswer(spec: ConstraintSpec, writer: Writer, seed: number, maxNewTokens = 200): Answer {
  const { tokenizer } = writer;
  const stop = writer.stopIds[0]!;
  const constraint = compiler.compile(spec, writer, 'schema');
  const sampler = new RequestSampler({
    tokenIds: new Int32Array(1),
    maxNewTokens,
    stopIds: writer.stopIds,
    topLogprobs: -1,
    sampling: { temperature: 1, topP: 1, topK: 0, seed, constraint },
  });
  const logits_V = new Float32Array(Math.max(tokenizer.vocabSize, stop + 1));
  const ids: number[] = [];
  const stream = tokenizer.createStream();
  let text = '';
  while (ids.length < maxNewTokens && !sampler.finished) {
    for (let id = 0; id < logits_V.length; id++) logits_V[id] = 3 * uniform(seed * 7919 + ids.length, id);
    const { id } = sampler.next(logits_V);
    if (writer.stopIds.includes(id)) return { text: text + stream.finish(), ids, isWhole: true };
    ids.push(id);
    text += stream.push(id);
  }
  return { text: text + stream.finish(), ids, isWhole: sampler.finished };
}
