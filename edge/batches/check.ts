/** What is wrong with a batch's input, line by line; nothing is kept of a line but its custom id. */
import { type BatchEndpoint, type BatchError, BatchLine } from '../../shared/contract/batches.ts';
import { ChatRequest, UNSUPPORTED_CHAT_FIELDS } from '../../shared/contract/chat.ts';
import { describe, errorMessage, type Violation, violation, violationsOf } from '../../shared/contract/errors.ts';
import { LIMITS } from '../../shared/contract/limits.ts';
import { ScoreRequest } from '../../shared/contract/score.ts';
import type { Line } from '../jobs/lines.ts';

const B = LIMITS.batches;
/** Blank lines are passed over, but not without end. */
const MAX_RAW_LINES = 2 * B.maxLines;

/** Takes a file's lines in order and gathers what is wrong, up to `maxReportedErrors`. */
export class InputCheck {
  readonly #endpoint: BatchEndpoint;
  readonly #ids = new Set<string>();
  readonly #errors: BatchError[] = [];
  #model: string | null = null;
  #requests = 0;
  #tooMany = false;

  constructor(endpoint: BatchEndpoint) {
    this.#endpoint = endpoint;
  }

  /** Of all lines; null before the first good one. */
  get model(): string | null {
    return this.#model;
  }

  /** Lines that ask for something. */
  get requests(): number {
    return this.#requests;
  }

  /** Nothing more is worth reading. */
  get isHopeless(): boolean {
    return this.#tooMany || this.#errors.length >= B.maxReportedErrors;
  }

  get errors(): readonly BatchError[] {
    return this.#errors;
  }

  /** @returns the line's custom id; null where it asks for nothing (a blank line) or is at fault. */
  take(line: Line): string | null {
    if (line.bytes !== null && isBlank(line.bytes)) {
      if (line.number > MAX_RAW_LINES) this.#refuseLength(line.number);
      return null;
    }
    this.#requests++;
    if (this.#requests > B.maxLines) {
      this.#refuseLength(line.number);
      return null;
    }
    const found = this.#read(line);
    if (typeof found === 'string') return found;
    for (const problem of found) this.#add(problem, line.number);
    return null;
  }

  /** The file is over. */
  finish(): void {
    if (this.#requests > 0) return;
    this.#add(violation('empty_file', null, { expected: 'at least 1 request', received: 'an empty file' }), null);
  }

  /** Its custom id, or what is wrong. */
  #read({ bytes }: Line): string | Violation[] {
    if (bytes === null) {
      return [
        violation('request_too_large', null, {
          expected: `lines of at most ${B.maxLineBytes} bytes`,
          received: 'a longer one',
        }),
      ];
    }
    const value = readLine(bytes);
    if ('problem' in value) return [value.problem];
    const parsed = BatchLine.safeParse(value.json);
    if (!parsed.success) return violationsOf(parsed.error.issues, value.json);
    const { custom_id, url, body } = parsed.data;
    const wrong: Violation[] = [];
    if (url !== this.#endpoint) {
      wrong.push(
        violation('invalid_value', 'url', {
          expected: `"${this.#endpoint}", the endpoint of the batch`,
          received: describe(url),
        }),
      );
    }
    if (this.#ids.has(custom_id)) {
      wrong.push(
        violation('duplicate_custom_id', 'custom_id', {
          expected: 'an id that no other line has',
          received: describe(custom_id),
        }),
      );
    }
    this.#ids.add(custom_id);
    wrong.push(...checkBody(this.#endpoint, body), ...this.#checkModel(body.model));
    return wrong.length > 0 ? wrong : custom_id;
  }

  #checkModel(model: unknown): Violation[] {
    if (typeof model !== 'string') return [];
    this.#model ??= model;
    if (model === this.#model) return [];
    return [
      violation('mismatched_model', 'body.model', {
        expected: `${describe(this.#model)} as in the lines before: a batch has one model`,
        received: describe(model),
      }),
    ];
  }

  #refuseLength(line: number): void {
    if (this.#tooMany) return;
    this.#tooMany = true;
    this.#add(violation('invalid_value', null, { expected: `at most ${B.maxLines} lines`, received: 'more' }), line);
  }

  #add({ code, message, param }: Violation, line: number | null): void {
    if (this.#errors.length < B.maxReportedErrors) this.#errors.push({ code, message, param, line });
  }
}

/** A line as JSON, or what keeps it from being that. */
export function readLine(bytes: Uint8Array): { json: unknown } | { problem: Violation } {
  try {
    return { json: JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)) };
  } catch (error) {
    const reason = error instanceof SyntaxError ? error.message : 'not UTF-8';
    const received = `text that is not JSON (${reason.slice(0, 200)})`;
    const message = errorMessage('line', { expected: 'a JSON object', received });
    return { problem: { code: 'invalid_json', param: null, message } };
  }
}

/** The body by the endpoint's own schema; what depends on the model and on pictures is found when the line's turn comes. */
function checkBody(endpoint: BatchEndpoint, body: Record<string, unknown>): Violation[] {
  const isChat = endpoint === '/v1/chat/completions';
  const parsed = isChat ? ChatRequest.safeParse(body) : ScoreRequest.safeParse(body);
  if (!parsed.success) {
    return violationsOf(parsed.error.issues, body, ['body']).map((problem) => {
      const field = problem.param?.replace(/^body\./, '') ?? '';
      return problem.code === 'unknown_parameter' && isChat && UNSUPPORTED_CHAT_FIELDS.has(field)
        ? violation('unsupported_parameter', problem.param, {
            expected: 'no such field',
            remedy: 'It is not supported yet; leave it out.',
          })
        : problem;
    });
  }
  if (body.stream !== true) return [];
  return [violation('invalid_value', 'body.stream', { expected: 'false or nothing in a batch', received: 'true' })];
}

function isBlank(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0x20 && byte !== 0x09) return false;
  return true;
}
