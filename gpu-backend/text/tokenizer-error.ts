/** A tokenizer.json that cannot be used, or text that the tokenizer has no ids for. */
export class TokenizerError extends Error {
  override readonly name = 'TokenizerError';
}
