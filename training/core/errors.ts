/**
 * The error for bad input. Its message names the source, the field, the expected and the found value. The command line
 * prints the message without a stack trace and exits with code 2.
 */
export class InputError extends Error {
  override readonly name = 'InputError';
}
