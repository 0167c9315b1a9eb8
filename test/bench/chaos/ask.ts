/** Requests of the chaos run, and what an answer to one may be. */
import { dataUrl, type PictureName, picture, textPart } from '../../wire/e2e/pictures.ts';

export type Question = {
  pictures: readonly [PictureName, PictureName];
  text: string;
  maxTokens: number;
  /** What the answer must look like. Alone, the model says a word or two; a kill is to hit answers on their way. */
  pattern?: string;
};

/** What the model says to a question that is asked alone. */
export type Solo = { text: string; finish: string };

export type Verdict =
  /** The solo answer. */
  | { kind: 'answer' }
  /** It may be asked again, and says so: a status with an envelope and a time, or an error event at the end of a stream. */
  | { kind: 'retryable'; how: string }
  /** Neither. */
  | { kind: 'violation'; what: string };

export const QUESTIONS: readonly Question[] = [
  { pictures: ['frame-1', 'frame-2'], text: 'Describe image 1.', maxTokens: 64 },
  { pictures: ['frame-2', 'frame-3'], text: 'What is different in image 2?', maxTokens: 64 },
  { pictures: ['yellow-circle', 'blue-triangle'], text: 'Describe image 2.', maxTokens: 64 },
  { pictures: ['two-black-squares', 'frame-1'], text: 'How many shapes are in image 1?', maxTokens: 64 },
  { pictures: ['frame-3', 'yellow-circle'], text: 'Is the shape in image 1 the same as in image 2?', maxTokens: 64 },
  { pictures: ['blue-triangle', 'two-black-squares'], text: 'Describe image 1 and image 2.', maxTokens: 64 },
];

const RETRYABLE = [502, 503, 504];
const urls = new Map<PictureName, string>();

function bodyOf({ pictures, text, maxTokens, pattern = '[a-z ]{150,200}' }: Question, stream: boolean): string {
  const parts = pictures.map((name) => {
    const url = urls.get(name) ?? dataUrl(picture(name));
    urls.set(name, url);
    return { type: 'image_url', image_url: { url } };
  });
  const content = [...parts, textPart(text)];
  const structured_outputs = { regex: pattern };
  const request = {
    structured_outputs,
    messages: [{ role: 'user', content }],
    max_completion_tokens: maxTokens,
    temperature: 0,
    stream,
  };
  return JSON.stringify({ model: 'mantis-nano', ...request });
}

/** Asks, and reads to the end. @throws the network's error */
export async function ask(
  door: { url: string; apiKey: string },
  question: Question,
  stream: boolean,
  timeoutMs: number,
): Promise<{ status: number; headers: Headers; text: string; firstByteMs: number }> {
  const startedMs = performance.now();
  const response = await fetch(`${door.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${door.apiKey}`, 'content-type': 'application/json' },
    body: bodyOf(question, stream),
    signal: AbortSignal.timeout(timeoutMs),
  });
  const firstByteMs = performance.now() - startedMs;
  return { status: response.status, headers: response.headers, text: await response.text(), firstByteMs };
}

type Chunk = {
  choices?: { delta?: { content?: string }; message?: { content?: string }; finish_reason?: string | null }[];
  error?: { message?: unknown; type?: unknown; code?: unknown };
};

/** The text and the way an answer ended; null where it has not the form of one. */
export function readWhole(text: string): Solo | null {
  try {
    const [choice] = (JSON.parse(text) as Chunk).choices ?? [];
    const { message, finish_reason: finish } = choice ?? {};
    return typeof message?.content === 'string' && finish ? { text: message.content, finish } : null;
  } catch {
    return null;
  }
}

/** Whether what came is the solo answer, a clean error, or neither. */
export function judge(
  answer: { status: number; headers: Headers; text: string },
  stream: boolean,
  solo: Solo | undefined,
): Verdict {
  const { status, headers, text } = answer;
  if (status !== 200) {
    if (!RETRYABLE.includes(status)) return violation(`status ${status}: ${text.slice(0, 200)}`);
    const code = errorCode(text);
    if (code === null) return violation(`status ${status} without an envelope: ${text.slice(0, 200)}`);
    if (!(Number(headers.get('retry-after')) > 0)) return violation(`status ${status} ${code} without retry-after`);
    return { kind: 'retryable', how: `${status} ${code}` };
  }
  return stream ? judgeStream(text, solo) : judgeWhole(text, solo);
}

function judgeWhole(text: string, solo: Solo | undefined): Verdict {
  const whole = readWhole(text);
  if (whole === null) {
    const code = errorCode(text);
    // The status had gone out before (white space keeps long answers' connections): the body says what the status cannot.
    return code === null ? violation(`no answer: ${text.slice(0, 200)}`) : { kind: 'retryable', how: `body ${code}` };
  }
  if (solo !== undefined && (whole.text !== solo.text || whole.finish !== solo.finish))
    return violation(`another answer than alone: ${JSON.stringify(whole)} and ${JSON.stringify(solo)}`);
  return { kind: 'answer' };
}

function judgeStream(text: string, solo: Solo | undefined): Verdict {
  const events = text.split(/\r?\n\r?\n/).flatMap((block) => {
    const data = block.split(/\r?\n/).flatMap((line) => (line.startsWith('data:') ? [line.slice(5).trim()] : []));
    return data.length === 0 ? [] : [data.join('\n')];
  });
  let said = '';
  let finish: string | null = null;
  for (const [i, event] of events.entries()) {
    const isLast = i === events.length - 1;
    if (event === '[DONE]') {
      if (!isLast) return violation('events after [DONE]');
      if (finish === null) return violation('[DONE] without a finish_reason');
      if (solo !== undefined && (said !== solo.text || finish !== solo.finish))
        return violation(`another answer than alone: ${JSON.stringify({ said, finish })} and ${JSON.stringify(solo)}`);
      return { kind: 'answer' };
    }
    const chunk = parse(event);
    if (chunk === null) return violation(`an event that is no JSON: ${event.slice(0, 200)}`);
    if (chunk.error !== undefined) {
      if (errorCode(event) === null) return violation(`an error event without an envelope: ${event.slice(0, 200)}`);
      if (events.slice(i + 1).includes('[DONE]')) return violation('[DONE] after an error');
      if (solo !== undefined && !solo.text.startsWith(said))
        return violation(`before the error: ${JSON.stringify(said)}`);
      return { kind: 'retryable', how: `event ${String(chunk.error.code)}` };
    }
    said += chunk.choices?.[0]?.delta?.content ?? '';
    finish = chunk.choices?.[0]?.finish_reason ?? finish;
  }
  return violation(`the stream ended without a terminal event after ${events.length} events`);
}

function errorCode(text: string): string | null {
  const error = parse(text)?.error;
  return typeof error?.message === 'string' && typeof error.type === 'string' ? String(error.code) : null;
}

function parse(text: string): Chunk | null {
  try {
    return JSON.parse(text) as Chunk;
  } catch {
    return null;
  }
}

function violation(what: string): Verdict {
  return { kind: 'violation', what };
}
