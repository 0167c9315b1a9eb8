/** An end of the command that the user should read as one sentence, without a stack. */
export class CliError extends Error {
  override readonly name = 'CliError';
  constructor(
    message: string,
    /** 1 = the work failed, 2 = the command line or a file named on it is at fault, 130 and 143 = stopped by Ctrl-C or a TERM signal. */
    readonly exitCode: 1 | 2 | 130 | 143 = 1,
  ) {
    super(message);
  }
}
