/** The error of weights files, and functions that throw it with the file's name. */

/** An error in a weights file. The message names the file, and the tensor and field if there is one. */
export class WeightsError extends Error {
  override readonly name = 'WeightsError';
}

/** Throws a WeightsError that begins with the file's name. */
export type Fail = (message: string) => never;

/** The `Fail` of a file. */
export function failFor(file: string): Fail {
  return (message) => {
    throw new WeightsError(`${file}: ${message}`);
  };
}
