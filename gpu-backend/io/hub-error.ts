export type HubErrorCode =
  /** The id, revision, endpoint or a name in the repository is not one that is followed. */
  | 'bad_id'
  | 'bad_endpoint'
  | 'unsafe_name'
  /** HF_HUB_OFFLINE is set and the folder does not hold a complete copy. */
  | 'offline'
  /** No token, or one that is not accepted. */
  | 'unauthorized'
  /** The repository's licence has to be accepted first. */
  | 'gated'
  | 'not_found'
  /** Weights that only a pickle holds, or a pickle under another name. */
  | 'pickle'
  | 'no_weights'
  | 'wrong_hash'
  | 'wrong_size'
  | 'too_large'
  | 'disk_full'
  | 'rate_limited'
  /** The retries are used up. */
  | 'unreachable'
  | 'bad_response';

/** A download that cannot go on; the message says what was expected, what came and what to do. */
export class HubError extends Error {
  override readonly name = 'HubError';
  constructor(
    readonly code: HubErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
