import * as z from 'zod/mini';
import { type ErrorFacts, errorMessage } from './facts.ts';
import { LIMITS } from './limits.ts';

export { type ErrorFacts, errorMessage };

/** HTTP status and OpenAI error type of every error code the product answers with. Codes also known to OpenAI keep OpenAI's spelling. */
export const ERRORS = {
  // The request as a whole.
  invalid_json: { status: 400, type: 'invalid_request_error' },
  invalid_request: { status: 400, type: 'invalid_request_error' },
  missing_required_parameter: { status: 400, type: 'invalid_request_error' },
  invalid_type: { status: 400, type: 'invalid_request_error' },
  invalid_value: { status: 400, type: 'invalid_request_error' },
  unknown_parameter: { status: 400, type: 'invalid_request_error' },
  unsupported_parameter: { status: 400, type: 'invalid_request_error' },
  unsupported_media_type: { status: 415, type: 'invalid_request_error' },
  request_too_large: { status: 413, type: 'invalid_request_error' },
  context_length_exceeded: { status: 400, type: 'invalid_request_error' },
  not_found: { status: 404, type: 'invalid_request_error' },
  method_not_allowed: { status: 405, type: 'invalid_request_error' },
  // Images.
  invalid_image_url: { status: 400, type: 'invalid_request_error' },
  invalid_base64_image: { status: 400, type: 'invalid_request_error' },
  invalid_image_format: { status: 400, type: 'invalid_request_error' },
  unsupported_image_media_type: { status: 415, type: 'invalid_request_error' },
  image_parse_error: { status: 400, type: 'invalid_request_error' },
  empty_image_file: { status: 400, type: 'invalid_request_error' },
  image_file_too_large: { status: 413, type: 'invalid_request_error' },
  image_too_large: { status: 400, type: 'invalid_request_error' },
  image_file_not_found: { status: 404, type: 'invalid_request_error' },
  failed_to_download_image: { status: 400, type: 'invalid_request_error' },
  too_many_images: { status: 400, type: 'invalid_request_error' },
  image_not_allowed_here: { status: 400, type: 'invalid_request_error' },
  // Things.
  model_not_found: { status: 404, type: 'invalid_request_error' },
  file_not_found: { status: 404, type: 'invalid_request_error' },
  job_not_found: { status: 404, type: 'invalid_request_error' },
  upload_not_found: { status: 404, type: 'invalid_request_error' },
  batch_not_found: { status: 404, type: 'invalid_request_error' },
  dataset_not_found: { status: 404, type: 'invalid_request_error' },
  dataset_validation_not_found: { status: 404, type: 'invalid_request_error' },
  webhook_endpoint_not_found: { status: 404, type: 'invalid_request_error' },
  webhook_delivery_not_found: { status: 404, type: 'invalid_request_error' },
  webhook_event_not_found: { status: 404, type: 'invalid_request_error' },
  schedule_not_found: { status: 404, type: 'invalid_request_error' },
  schedule_run_not_found: { status: 404, type: 'invalid_request_error' },
  alias_not_found: { status: 404, type: 'invalid_request_error' },
  eval_not_found: { status: 404, type: 'invalid_request_error' },
  eval_run_not_found: { status: 404, type: 'invalid_request_error' },
  eval_item_not_found: { status: 404, type: 'invalid_request_error' },
  key_not_found: { status: 404, type: 'invalid_request_error' },
  tenant_not_found: { status: 404, type: 'invalid_request_error' },
  invalid_training_file: { status: 400, type: 'invalid_request_error' },
  // Lines of a batch.
  empty_file: { status: 400, type: 'invalid_request_error' },
  duplicate_custom_id: { status: 400, type: 'invalid_request_error' },
  mismatched_model: { status: 400, type: 'invalid_request_error' },
  batch_expired: { status: 409, type: 'invalid_request_error' },
  batch_cancelled: { status: 409, type: 'invalid_request_error' },
  // States.
  invalid_state: { status: 409, type: 'invalid_request_error' },
  file_in_use: { status: 409, type: 'invalid_request_error' },
  stale_lease: { status: 409, type: 'invalid_request_error' },
  blobs_missing: { status: 409, type: 'invalid_request_error' },
  digest_mismatch: { status: 400, type: 'invalid_request_error' },
  // Who.
  invalid_api_key: { status: 401, type: 'authentication_error' },
  invalid_signature: { status: 401, type: 'authentication_error' },
  insufficient_scope: { status: 403, type: 'permission_error' },
  // How much and how often.
  rate_limit_exceeded: { status: 429, type: 'rate_limit_error' },
  idempotency_in_progress: { status: 409, type: 'invalid_request_error' },
  idempotency_mismatch: { status: 422, type: 'invalid_request_error' },
  // Us.
  client_closed_request: { status: 499, type: 'invalid_request_error' },
  server_error: { status: 500, type: 'server_error' },
  backend_failed: { status: 502, type: 'server_error' },
  no_backend: { status: 503, type: 'server_error' },
  overloaded: { status: 503, type: 'server_error' },
  deadline_exceeded: { status: 504, type: 'server_error' },
} as const;

export type ErrorCode = keyof typeof ERRORS;
export type ErrorType = (typeof ERRORS)[ErrorCode]['type'];

/** One violation; `param` is a path such as `messages[2].content[1].image_url`, or null where no single field is at fault. */
export type Violation = { code: ErrorCode; param: string | null; message: string; line?: number };

/** Builds one violation; the message starts with the path, so that it stands alone in a log. */
export function violation(code: ErrorCode, param: string | null, facts: ErrorFacts): Violation {
  const subject = param ?? (code === 'invalid_type' ? 'value' : code);
  return { code, param, message: errorMessage(subject, facts) };
}

/** Violations in the order they are found: the first ones are kept, the others counted. */
export class ViolationList {
  readonly kept: Violation[] = [];
  total = 0;

  get isFull(): boolean {
    return this.kept.length >= LIMITS.request.maxReportedViolations;
  }

  add(...violations: readonly Violation[]): void {
    for (const violation of violations) {
      this.total++;
      if (!this.isFull) this.kept.push(violation);
    }
  }

  /** Counts violations that need not be spelled out. */
  skip(count: number): void {
    this.total += count;
  }

  /** What is kept, and how many are not. */
  listed(): Violation[] {
    const more = this.total - this.kept.length;
    return more === 0 ? this.kept : [...this.kept, furtherViolations(more)];
  }
}

function furtherViolations(count: number): Violation {
  const message = `${count} more violations are not listed. Mend the listed ones first.`;
  return { code: 'invalid_request', param: null, message };
}

export const ErrorDetail = z.object({
  code: z.string(),
  param: z.nullable(z.string()),
  message: z.string(),
  line: z.optional(z.int()),
});

/** OpenAI's envelope; `details` (ours) lists every violation when there is more than one thing to say. */
export const ErrorEnvelope = z.object({
  error: z.object({
    message: z.string(),
    type: z.string(),
    param: z.nullable(z.string()),
    code: z.nullable(z.string()),
    details: z.optional(z.array(ErrorDetail)),
  }),
});
export type ErrorEnvelope = z.infer<typeof ErrorEnvelope>;

/** An error that is the client's answer. Everything else thrown is ours and becomes a 500 without its text. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: number;
  readonly type: string;

  /**
   * @param code row of `ERRORS`.
   * @param message full sentence for a person.
   * @param options.param path of the field at fault.
   * @param options.details all violations, the first of which is this error.
   * @param options.retryAfterMs sent as `retry-after` (whole seconds, rounded up) and `retry-after-ms`.
   * @param options.status overrides the table where a backend has already decided.
   * @param options.shouldRetry sent as `x-should-retry` in place of what the status implies.
   * @param options.headers sent with the answer.
   */
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly options: {
      param?: string | null;
      details?: readonly Violation[];
      retryAfterMs?: number;
      status?: number;
      shouldRetry?: boolean;
      headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(message);
    this.status = options.status ?? ERRORS[code].status;
    this.type = ERRORS[code].type;
  }

  /**
   * From a list of violations (at least one): the first makes the envelope, all of them the details, up to the published number.
   * @param total how many there are where the list is not all of them
   */
  static from(violations: readonly Violation[], total = violations.length): ApiError {
    const first = violations[0];
    if (first === undefined) throw new Error('ApiError.from: expected at least one violation');
    const more = total > 1 ? ` (and ${total - 1} more, see error.details)` : '';
    const max = LIMITS.request.maxReportedViolations;
    // A list that already says how many it leaves out has one entry more.
    const kept = violations.length > max + 1 ? violations.slice(0, max) : violations;
    const details =
      kept.length < total && kept.length <= max ? [...kept, furtherViolations(total - kept.length)] : kept;
    return new ApiError(first.code, first.message + more, { param: first.param, details });
  }

  /** The response body. */
  envelope(): ErrorEnvelope {
    const { param = null, details } = this.options;
    const error = { message: this.message, type: this.type, param, code: this.code };
    return { error: details === undefined ? error : { ...error, details: [...details] } };
  }
}

/** Longest key that a path shows whole. */
const MAX_KEY_CHARS = 64;

/** `['messages', 0, 'content', 2]` → `messages[0].content[2]`. Long keys, and long paths at their end, are cut. */
export function fieldPath(path: readonly PropertyKey[]): string {
  let text = '';
  for (const key of path) {
    if (typeof key === 'number') text += `[${key}]`;
    else text += text === '' ? shortened(String(key), MAX_KEY_CHARS) : `.${shortened(String(key), MAX_KEY_CHARS)}`;
    if (text.length > LIMITS.request.maxParamChars) return shortened(text, LIMITS.request.maxParamChars);
  }
  return text;
}

const shortened = (text: string, maxChars: number): string =>
  text.length <= maxChars ? text : `${text.slice(0, maxChars - 1)}…`;

/** The parts of a zod issue that are read here; zod's own issue type is a wide union. */
type Issue = {
  readonly code: string;
  readonly path: readonly PropertyKey[];
  readonly message: string;
  readonly input?: unknown;
  readonly expected?: unknown;
  readonly keys?: readonly string[];
  readonly values?: readonly unknown[];
  readonly minimum?: unknown;
  readonly maximum?: unknown;
  readonly inclusive?: boolean;
  readonly origin?: string;
  readonly discriminator?: string;
  readonly options?: readonly unknown[];
  readonly errors?: readonly (readonly Issue[])[];
  readonly issues?: readonly Issue[];
};

const ARTICLE: Record<string, string> = {
  int: 'an integer',
  object: 'an object',
  record: 'an object',
  array: 'an array',
  string: 'a string',
  number: 'a number',
  boolean: 'true or false',
  never: 'nothing: an empty list',
};

/**
 * Turns zod issues into violations of our table, each naming field, expectation and what came.
 * @param root the value that was parsed; `prefix` is where it stands in the client's request
 * @param list takes them; a full one only counts
 */
export function violationsOf(
  issues: readonly unknown[],
  root: unknown,
  prefix: readonly PropertyKey[] = [],
  list: ViolationList = new ViolationList(),
): Violation[] {
  for (const issue of issues as readonly Issue[]) {
    if (list.isFull) list.skip(issue.keys?.length ?? 1);
    else if (issue.code === 'unrecognized_keys') addUnknownKeys(issue, root, prefix, list);
    else list.add(...violationsOfIssue(issue, root, prefix));
  }
  return list.listed();
}

function addUnknownKeys(
  { keys = [], path }: Issue,
  root: unknown,
  prefix: readonly PropertyKey[],
  list: ViolationList,
) {
  const owner = valueAt(root, path);
  for (const [i, key] of keys.entries()) {
    if (list.isFull) return list.skip(keys.length - i);
    list.add(unknownParameter([...prefix, ...path, key], valueAt(owner, [key])));
  }
}

/** A field that nothing knows. */
export function unknownParameter(path: readonly PropertyKey[], value: unknown): Violation {
  return violation('unknown_parameter', fieldPath(path), {
    expected: 'no such field',
    received: describe(value),
    remedy: 'Remove it; /openapi.json lists the fields.',
  });
}

function violationsOfIssue(issue: Issue, root: unknown, prefix: readonly PropertyKey[]): Violation[] {
  const path = [...prefix, ...issue.path];
  const param = path.length === 0 ? null : fieldPath(path);
  const value = valueAt(root, issue.path);
  switch (issue.code) {
    case 'unrecognized_keys':
      return (issue.keys ?? []).map((key) => unknownParameter([...path, key], valueAt(value, [key])));
    case 'invalid_type': {
      const expected = ARTICLE[String(issue.expected)] ?? String(issue.expected);
      if (value === undefined)
        return [violation('missing_required_parameter', param, { expected, received: 'nothing' })];
      return [violation('invalid_type', param, { expected, received: describe(value) })];
    }
    case 'invalid_value':
      return [violation('invalid_value', param, { expected: oneOf(issue.values ?? []), received: describe(value) })];
    case 'too_small':
      return [
        violation('invalid_value', param, {
          expected: bound(issue, 'at least', issue.minimum),
          received: measure(issue, value),
        }),
      ];
    case 'too_big':
      return [
        violation('invalid_value', param, {
          expected: bound(issue, 'at most', issue.maximum),
          received: measure(issue, value),
        }),
      ];
    case 'invalid_key': {
      const inner = issue.issues?.[0];
      const name = String(path.at(-1));
      const expected =
        inner?.code === 'too_big' ? `names of ${bound(inner, 'at most', inner.maximum)}` : 'another name';
      return [violation('invalid_value', param, { expected, received: counted(name.length, 'character') })];
    }
    case 'invalid_union':
      return violationsOfUnion(issue, root, prefix, value, param);
    default:
      return [
        violation('invalid_value', param, { expected: issue.message.replace(/\.$/, ''), received: describe(value) }),
      ];
  }
}

/** A union's most helpful branch is one that agrees with the value's type and complains about something inside or about its size. */
function violationsOfUnion(
  issue: Issue,
  root: unknown,
  prefix: readonly PropertyKey[],
  value: unknown,
  param: string | null,
): Violation[] {
  if (issue.discriminator !== undefined) {
    const expected = issue.options === undefined ? `a known ${issue.discriminator}` : oneOf(issue.options);
    const code = value === undefined ? 'missing_required_parameter' : 'invalid_value';
    return [violation(code, param, { expected, received: describe(value) })];
  }
  const branches = issue.errors ?? [];
  const fitting = branches
    .filter((branch) => branch.every((inner) => inner.path.length > 0 || !/invalid_(type|value)/.test(inner.code)))
    .sort((a, b) => a.length - b.length)[0];
  if (fitting !== undefined) {
    return fitting.flatMap((inner) =>
      violationsOfIssue({ ...inner, path: [...issue.path, ...inner.path] }, root, prefix),
    );
  }
  const expectations = branches.flatMap((branch) =>
    branch.map((inner) =>
      inner.values !== undefined ? oneOf(inner.values) : (ARTICLE[String(inner.expected)] ?? String(inner.expected)),
    ),
  );
  const code = value === undefined ? 'missing_required_parameter' : 'invalid_type';
  return [violation(code, param, { expected: [...new Set(expectations)].join(' or '), received: describe(value) })];
}

function oneOf(values: readonly unknown[]): string {
  const shown = values.map((value) => JSON.stringify(value)).join(', ');
  return values.length === 1 ? shown : `one of ${shown}`;
}

function bound(issue: Issue, word: string, limit: unknown): string {
  const unit = issue.origin === 'string' ? 'character' : issue.origin === 'array' ? 'item' : null;
  const strict = issue.inclusive === false ? (word === 'at least' ? 'more than' : 'less than') : word;
  return `${strict} ${unit === null ? String(limit) : counted(Number(limit), unit)}`;
}

function measure(issue: Issue, value: unknown): string {
  if (issue.origin === 'string' && typeof value === 'string') return counted(value.length, 'character');
  if (issue.origin === 'array' && Array.isArray(value)) return counted(value.length, 'item');
  return describe(value);
}

const counted = (count: number, unit: string): string => `${count} ${unit}${count === 1 ? '' : 's'}`;

/** Short, safe rendering of a client's value: long strings are cut, structures named. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (typeof value === 'string') return JSON.stringify(value.length > 64 ? `${value.slice(0, 61)}…` : value);
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return 'an object';
}

function valueAt(root: unknown, path: readonly PropertyKey[]): unknown {
  let at = root;
  for (const key of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, key)) return undefined;
    at = (at as Record<PropertyKey, unknown>)[key];
  }
  return at;
}
