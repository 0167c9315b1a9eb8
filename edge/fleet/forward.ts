/** The signed call to a backend and the reading of its event stream. */
import {
  BackendErrorBody,
  type BackendScoreRequest,
  BackendScoreResponse,
  GenerateEvent,
  type GenerateRequest,
} from '../../shared/contract/backend.ts';
import { ApiError, ERRORS, type ErrorCode } from '../../shared/contract/errors.ts';
import { type BlobInfo, encodeFrame, FRAME_TYPE } from '../../shared/wire/frame.ts';
import { signatureHeaders } from '../../shared/wire/signature.ts';
import { decodeSse } from '../../shared/wire/sse.ts';
import type { Env } from '../env.ts';
import { pick } from './pick.ts';
import { liveBackends } from './registry.ts';

/** A request that was not even accepted by a backend is tried once more elsewhere (or there again, after a restart). */
const MAX_ATTEMPTS = 2;

export type Blob = { digest: string; mime: string; bytes: Uint8Array };

/** Fetches `path` of a backend, signed. Network failures reject; statuses are the caller's to read. */
export async function callBackend(
  env: Env,
  url: string,
  request: {
    method: string;
    path: string;
    type?: string;
    body?: Uint8Array<ArrayBuffer> | string;
    signal?: AbortSignal;
  },
): Promise<Response> {
  const { method, path, body = null, signal } = request;
  const headers = new Headers(
    await signatureHeaders({ secret: env.BACKEND_SECRET, method, target: path, body, nowS: Date.now() / 1000 }),
  );
  if (request.type !== undefined) headers.set('content-type', request.type);
  return fetch(new URL(path, url), {
    method,
    headers,
    body,
    redirect: 'manual',
    ...(signal === undefined ? {} : { signal }),
  });
}

/**
 * Sends a generation to the fittest backend.
 * @returns its events; the first one has already arrived, so that refusals still become a plain HTTP error.
 * @throws ApiError for every way in which no answer comes.
 */
export async function generate(
  env: Env,
  base: string,
  request: GenerateRequest,
  blobs: readonly Blob[],
  signal: AbortSignal,
): Promise<AsyncGenerator<GenerateEvent, void, undefined>> {
  return primed(events(await send(env, base, '/v1/generate', request, blobs, signal)), request);
}

/** Has the fittest backend score options. @throws ApiError for every way in which no answer comes */
export async function score(
  env: Env,
  base: string,
  request: BackendScoreRequest,
  blobs: readonly Blob[],
  signal: AbortSignal,
): Promise<BackendScoreResponse> {
  const response = await send(env, base, '/v1/score', request, blobs, signal);
  let body: unknown;
  try {
    body = await response.json();
  } catch (error) {
    throw backendDied(request, error);
  }
  const parsed = BackendScoreResponse.safeParse(body);
  if (!parsed.success)
    throw backendDied(request, `scores that are not in the contract: ${JSON.stringify(body).slice(0, 200)}`);
  return parsed.data;
}

/** Sends a request to the fittest backend, and once more elsewhere where it was not accepted. @returns a successful response */
async function send(
  env: Env,
  base: string,
  path: string,
  request: GenerateRequest,
  blobs: readonly Blob[],
  signal: AbortSignal,
): Promise<Response> {
  const infos: BlobInfo[] = blobs.map(({ digest, mime, bytes }) => ({ digest, mime, bytes: bytes.byteLength }));
  const body = encodeFrame(
    { ...request, blobs: infos },
    blobs.map(({ bytes }) => bytes),
  );
  const failed = new Set<string>();
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const backend = pick(await liveBackends(env, attempt > 0), { model: base, exclude: failed, roll: Math.random() });
    if (backend === null) break;
    let response: Response;
    try {
      response = await callBackend(env, backend.url, {
        method: 'POST',
        path,
        type: FRAME_TYPE,
        body,
        signal,
      });
    } catch (error) {
      if (signal.aborted) {
        throw new ApiError(
          'deadline_exceeded',
          `No answer within ${request.deadlineMs} ms. Request id: ${request.requestId}.`,
        );
      }
      console.error(
        JSON.stringify({
          level: 'warn',
          event: 'backend_unreachable',
          backend: backend.id,
          request_id: request.requestId,
          error: String(error),
        }),
      );
      failed.add(backend.id);
      continue;
    }
    if (response.status === 503 && attempt + 1 < MAX_ATTEMPTS) {
      failed.add(backend.id);
      await response.body?.cancel();
      continue;
    }
    if (!response.ok) throw await refusal(response, request);
    return response;
  }
  throw new ApiError(
    'no_backend',
    `No backend can take a request for ${JSON.stringify(base)} right now. Try again shortly.`,
    { retryAfterMs: 2_000 },
  );
}

/** Decodes and checks each event; comments (pings) vanish here. */
async function* events(response: Response): AsyncGenerator<GenerateEvent, void, undefined> {
  if (response.body === null) return;
  for await (const { data } of decodeSse(response.body)) {
    const parsed = GenerateEvent.safeParse(JSON.parse(data));
    if (!parsed.success) throw new Error(`backend sent an event that is not in the contract: ${data.slice(0, 200)}`);
    yield parsed.data;
    if (parsed.data.type === 'finished' || parsed.data.type === 'error') return;
  }
}

/** Waits for the first event: an `error` there is the answer's status, anything else starts the answer. */
async function primed(
  source: AsyncGenerator<GenerateEvent, void, undefined>,
  request: GenerateRequest,
): Promise<AsyncGenerator<GenerateEvent, void, undefined>> {
  let first: IteratorResult<GenerateEvent, void>;
  try {
    first = await source.next();
  } catch (error) {
    throw backendDied(request, error);
  }
  if (first.done) throw backendDied(request, 'no event');
  if (first.value.type === 'error') throw backendError(first.value.error, request);
  const started = first.value;
  return (async function* () {
    try {
      yield started;
      yield* source;
    } finally {
      await source.return();
    }
  })();
}

/** The backend's connection broke before the end; it may already have worked, so it is not repeated here. */
export function backendDied(request: GenerateRequest, reason: unknown): ApiError {
  console.error(
    JSON.stringify({ level: 'error', event: 'backend_died', request_id: request.requestId, error: String(reason) }),
  );
  return new ApiError(
    'backend_failed',
    `The backend stopped before the answer was complete. Request id: ${request.requestId}.`,
  );
}

async function refusal(response: Response, request: GenerateRequest): Promise<ApiError> {
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
export function backendError(
  error: { status: number; code: string; message: string; param: string | null },
  request: GenerateRequest,
): ApiError {
  if (!Object.hasOwn(ERRORS, error.code) || error.status === 401)
    return backendDied(request, `${error.status} ${error.code}: ${error.message}`);
  const outward = (text: string) =>
    text.replaceAll(/\bmessages\[(\d+)\]\.parts\[(\d+)\]/g, 'messages[$1].content[$2].image_url');
  const param = error.param === null ? null : outward(error.param);
  return new ApiError(error.code as ErrorCode, outward(error.message), {
    param,
    status: error.status,
    ...(error.status === 503 ? { retryAfterMs: 2_000 } : {}),
  });
}
