/** Messages of thrown values of unknown type. */

/** The message of a thrown value, whether or not it is an Error. */
export const errorMessage = (error: unknown): string => (error instanceof Error ? error.message : String(error));
