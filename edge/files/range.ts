import { ApiError, errorMessage } from '../../shared/contract/errors.ts';

/**
 * The range that a request for `size` bytes asks for (RFC 9110, section 14): one range only; what is not understood asks for everything.
 * @throws ApiError 416 for a range that lies outside
 */
export function contentRange(headers: Headers, size: number, etag: string): { offset: number; length: number } | null {
  const ifRange = headers.get('if-range');
  if (ifRange !== null && ifRange !== etag) return null;
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(headers.get('range')?.trim() ?? '');
  if (match === null) return null;
  const [, first = '', last = ''] = match;
  if (first === '' && last === '') return null;
  const from = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const to = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  if (first !== '' && last !== '' && Number(last) < Number(first)) return null;
  if (from < size && to >= from) return { offset: from, length: to - from + 1 };
  throw new ApiError(
    'invalid_value',
    errorMessage('range', { expected: `bytes within the ${size} of the file`, received: match[0] }),
    { param: 'range', status: 416, headers: { 'content-range': `bytes */${size}` } },
  );
}
