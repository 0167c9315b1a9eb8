import type { BackendError } from '../../shared/contract/backend.ts';
import { ApiError } from '../../shared/contract/errors.ts';

/** The envelope of an error on the inner wire. What is not an `ApiError` is ours: its text stays in the log. */
export function errorBody(error: unknown): { error: BackendError } {
  const known =
    error instanceof ApiError
      ? error
      : new ApiError('server_error', 'The backend failed to handle the request; its log has the reason.');
  const { code, message, type, status, options } = known;
  const details = options.details?.map(({ code, param, message }) => ({ code, param, message }));
  return {
    error: { status, code, type, message, param: options.param ?? null, ...(details === undefined ? {} : { details }) },
  };
}
