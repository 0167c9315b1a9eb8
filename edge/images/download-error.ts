import { LIMITS } from '../../shared/contract/limits.ts';

/** Why there is no picture. Classes only: more would tell a client what stands behind addresses that are not its own. */
export const DOWNLOAD_FAILURES = {
  address: 'an address that is not public or not https',
  unreachable: 'nothing, it cannot be reached',
  status: 'an answer with a status other than 200',
  redirects: `more than ${LIMITS.images.remote.maxRedirects} redirects`,
  too_large: 'too many bytes',
  too_slow: 'too little in too long a time',
  busy: 'nothing, too much is being downloaded already',
  not_an_image: 'something that is no picture',
} as const;
export type DownloadFailure = keyof typeof DOWNLOAD_FAILURES;

export class DownloadError extends Error {
  override readonly name = 'DownloadError';

  constructor(readonly reason: DownloadFailure) {
    super(DOWNLOAD_FAILURES[reason]);
  }
}
