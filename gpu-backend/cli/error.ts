/** An end of the command that the user should read as one sentence, without a stack. */
export class CliError extends Error {
  override readonly name = 'CliError';
  constructor(
    message: string,
    /** 1 = the work failed, 2 = the command line or a file named on it is at fault. */
    readonly exitCode: 1 | 2 = 1,
  ) {
    super(message);
  }
}
