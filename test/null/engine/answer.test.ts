import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { AnswerText } from '../../../gpu-backend/engine/answer.ts';
import type { Tokenizer } from '../../../gpu-backend/text/tokenizer.ts';
import { tokenizerOf } from './grammar/answers.ts';

/** One id for each byte: characters beyond ASCII take several. */
function byteIds(tokenizer: Tokenizer, text: string): number[] {
  const idOf = new Map<number, number>();
  for (let id = 0; id < tokenizer.vocabSize; id++) {
    const bytes = tokenizer.bytesOf(id);
    if (bytes?.length === 1) idOf.set(bytes[0]!, id);
  }
  return [...new TextEncoder().encode(text)].map((byte) => idOf.get(byte)!);
}

const TEXTS = ['Ein 🙂 für 象棋 — né?', '👩‍👩‍👧‍👦🇩🇪', '한국어 ไทย', '\u{10ffff}\u0000'];

describe('AnswerText', () => {
  for (const kind of ['byte-level', 'metaspace', 'nano'] as const)
    it(`never sends a part of a character (${kind})`, () => {
      const tokenizer = tokenizerOf(kind);
      for (const text of TEXTS) {
        const answer = new AnswerText({ tokenizer, stop: [], logprobs: true });
        let sent = '';
        const bytes: number[] = [];
        for (const id of byteIds(tokenizer, text)) {
          const delta = answer.push({ id, logprob: -1, top: [{ id, logprob: -1 }] });
          if (delta === null) continue;
          assert.ok(!delta.text.includes('\ufffd'), delta.text);
          assert.doesNotThrow(() => encodeURIComponent(delta.text));
          sent += delta.text;
          for (const one of delta.logprobs!) bytes.push(...one.bytes);
        }
        assert.equal(answer.finish(), null);
        assert.equal(sent, text);
        assert.deepEqual(Uint8Array.from(bytes), new TextEncoder().encode(text));
      }
    });

  it('finds a stop string of half-sent characters, and sends nothing of it', () => {
    const tokenizer = tokenizerOf('byte-level');
    const answer = new AnswerText({ tokenizer, stop: ['象棋'], logprobs: false });
    let sent = '';
    for (const id of byteIds(tokenizer, 'a象b象棋c')) {
      if (answer.stopped) break;
      sent += answer.push({ id, logprob: 0, top: [] })?.text ?? '';
    }
    assert.equal(sent, 'a象b');
    assert.ok(answer.stopped);
  });

  it('a character that was never finished is one replacement character at the end', () => {
    const tokenizer = tokenizerOf('byte-level');
    const answer = new AnswerText({ tokenizer, stop: [], logprobs: false });
    for (const id of byteIds(tokenizer, '🙂').slice(0, 3)) assert.equal(answer.push({ id, logprob: 0, top: [] }), null);
    assert.equal(answer.finish()?.text, '\ufffd');
  });
});
