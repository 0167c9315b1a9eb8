/** What a client is told when a backend fails, and what only the log is told. */
import { type BackendError, BackendErrorBody, type GenerateRequest } from '../../shared/contract/backend.ts';
import { ApiError, ERRORS, type ErrorCode, type Violation } from '../../shared/contract/errors.ts';
import type { Refusal } from './dispatcher.ts';

/** The backend's connection broke before the end, or what it said makes no sense. */
export function backendDied(request: Pick<GenerateRequest, 'requestId'>, reason: unknown): ApiError {
  console.error(
    JSON.stringify({ level: 'error', event: 'backend_died', request_id: request.requestId, error: String(reason) }),
  );
  return new ApiError(
    'backend_failed',
    `The backend stopped before the answer was complete. Try again. Request id: ${request.requestId}.`,
    { retryAfterMs: 1_000 },
  );
}

/** An error answer of a backend. */
export async function refusalOf(response: Response, request: GenerateRequest): Promise<ApiError> {
  const text = await response.text();
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return backendDied(request, `status ${response.status} with ${text.slice(0, 200)}`);
  }
  const parsed = BackendErrorBody.safeParse({
    error: { status: response.status, param: null, ...(body as { error?: object }).error },
  });
  if (!parsed.success) return backendDied(request, `status ${response.status} with ${text.slice(0, 200)}`);
  return backendError(parsed.data.error, request);
}

/** A backend's error in the client's words: known codes pass, `parts` become the `content` the client wrote, secrets of its inside do not pass. */
export function backendError(error: BackendError, request: GenerateRequest): ApiError {
  if (!Object.hasOwn(ERRORS, error.code) || error.status === 401)
    return backendDied(request, `${error.status} ${error.code}: ${error.message}`);
  const outward = (text: string) =>
    text.replaceAll(/\bmessages\[(\d+)\]\.parts\[(\d+)\]/g, (_, m: string, p: string) =>
      pathOf(request, Number(m), Number(p)),
    );
  const known = error.details?.flatMap(({ code, param, message }): Violation[] =>
    Object.hasOwn(ERRORS, code)
      ? [{ code: code as ErrorCode, param: param === null ? null : outward(param), message: outward(message) }]
      : [],
  );
  const param = error.param === null ? null : outward(error.param);
  return new ApiError(error.code as ErrorCode, outward(error.message), {
    param,
    status: error.status,
    ...(known === undefined || known.length === 0 ? {} : { details: known }),
    ...(error.status === 503 ? { retryAfterMs: 2_000 } : {}),
  });
}

/** Where the client wrote a part. */
function pathOf({ messages }: GenerateRequest, m: number, p: number): string {
  const parts = messages[m]?.parts ?? [];
  const part = parts[p];
  // A single text may have been the content itself.
  if (part?.type === 'text') return `messages[${m}].content${parts.length === 1 ? '' : `[${p}].text`}`;
  return `messages[${m}].content[${p}].${part?.isFile === true ? 'image_file' : 'image_url'}`;
}

export function deadlinePassed({ requestId }: Pick<GenerateRequest, 'requestId'>, deadlineMs: number): ApiError {
  return new ApiError('deadline_exceeded', `No answer within ${deadlineMs} ms. Request id: ${requestId}.`);
}

/** Said before anything of the request was looked at. */
export function overloadedFor(retryAfterMs: number): ApiError {
  return new ApiError(
    'overloaded',
    `More requests come than can be answered. Try again in ${Math.ceil(retryAfterMs / 1000)} s.`,
    { retryAfterMs },
  );
}

/** For the log: nobody reads it. */
export function clientLeft(): ApiError {
  return new ApiError('client_closed_request', 'The client has left.');
}

/** Why the fleet did not let a request in. */
export function refused(refusal: Refusal, model: string, request: GenerateRequest): ApiError {
  const { reason, retryAfterMs, expectedWaitMs } = refusal;
  const again = `Try again in ${Math.ceil(retryAfterMs / 1000)} s.`;
  switch (reason) {
    case 'queue_full':
      return new ApiError('overloaded', `Too many requests wait for ${JSON.stringify(model)} already. ${again}`, {
        retryAfterMs,
      });
    case 'wait_too_long':
      return new ApiError(
        'overloaded',
        `${JSON.stringify(model)} is busy: this request would wait about ${expectedWaitMs} ms. ${again}`,
        {
          retryAfterMs,
        },
      );
    case 'no_backend':
      return new ApiError(
        'no_backend',
        `No backend can take a request for ${JSON.stringify(model)} right now. ${again}`,
        { retryAfterMs },
      );
    case 'deadline':
      return deadlinePassed(request, request.deadlineMs);
    case 'retry_budget':
      return new ApiError(
        'backend_failed',
        `Backends fail too often to try once more. ${again} Request id: ${request.requestId}.`,
        {
          retryAfterMs,
        },
      );
    case 'cancelled':
      return clientLeft();
    default:
      return reason satisfies never;
  }
}
