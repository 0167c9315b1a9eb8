/** What is wrong with a conversation, and where. */
export class LayoutError extends Error {
  override readonly name = 'LayoutError';
  constructor(
    message: string,
    /** Where in the messages, e.g. `messages[2].parts[0]`. */
    readonly path: string,
  ) {
    super(`${path}: ${message}`);
  }
}
