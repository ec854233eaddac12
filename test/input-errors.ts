/** Expected errors about bad input, for tests of commands. */
import { expect } from 'vitest';
import { InputError } from '../training/core/errors.ts';

/** The message of the InputError that `run` throws or rejects with. The test fails if `run` gives no such error. */
export async function inputErrorOf(run: () => unknown): Promise<string> {
  const error = await Promise.resolve()
    .then(run)
    .then(
      () => null,
      (reason: unknown) => reason,
    );
  expect(error).toBeInstanceOf(InputError);
  return (error as InputError).message;
}
