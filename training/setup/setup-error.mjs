// @ts-check
/** The error class of set-up, and functions for messages. */

/** An expected failure. Its message is for the user and is printed without a stack trace. */
export class SetupError extends Error {}

/**
 * An error's message on one line.
 * @param {unknown} error
 */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ');

/**
 * Whether an error is printed without a stack trace. The system's errors count too: a full disk, a read-only folder.
 * @param {unknown} error
 * @returns {error is Error}
 */
export const isExpected = (error) =>
  error instanceof SetupError || (error instanceof Error && 'code' in error && 'syscall' in error);
