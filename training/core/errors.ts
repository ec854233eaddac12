/** The error for bad input: its message names the file, the field, what was expected and what came. The command line prints it without a stack and exits with 2. */
export class InputError extends Error {
  override readonly name = 'InputError';
}
