import { FRAME_TYPE } from '../../shared/wire/frame.ts';
import { signatureHeaders } from '../../shared/wire/signature.ts';
import { frameHead } from '../../shared/wire/signedFrame.ts';
import type { Env } from '../env.ts';

/** Fetches `path` of a backend, signed. Network failures reject; statuses are the caller's to read. */
export async function callBackend(
  env: Env,
  backend: { readonly id: string; readonly url: string },
  request: {
    method: string;
    path: string;
    type?: string;
    /** The trace it belongs to. */
    traceparent?: string | null;
    body?: Uint8Array<ArrayBuffer> | string;
    signal?: AbortSignal;
  },
): Promise<Response> {
  const { method, path, body = null, signal } = request;
  const headers = new Headers(
    await signatureHeaders({
      secret: env.BACKEND_SECRET,
      audience: backend.id,
      method,
      target: path,
      body: request.type === FRAME_TYPE && typeof body === 'object' && body !== null ? frameHead(body) : body,
      nowS: Date.now() / 1000,
    }),
  );
  if (request.type !== undefined) headers.set('content-type', request.type);
  if (request.traceparent != null) headers.set('traceparent', request.traceparent);
  return fetch(new URL(path, backend.url), {
    method,
    headers,
    body,
    redirect: 'manual',
    ...(signal === undefined ? {} : { signal }),
  });
}
