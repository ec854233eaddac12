/** A choice that the program made in place of the user. */
export interface Choice {
  /** What was chosen, with its value, such as `batch 4`. */
  readonly value: string;
  /** Why, such as `205 training images`. */
  readonly reason: string;
  /** The option that changes it, such as `--batch N`. */
  readonly key: string;
}
