/** Warnings about data that is corrected or left out, collected by kind. */

/** Number of cases of one kind that `Warnings.summary` shows. */
export const MAX_SHOWN_CASES = 10;

/** Collects the errors of a data set that do not prevent its use. */
export class Warnings {
  private readonly kinds = new Map<string, string[]>();

  /**
   * @param kind the error and its correction, e.g. "degenerate boxes, dropped"
   * @param text one case, with its file and annotation
   */
  add(kind: string, text: string): void {
    const cases = this.kinds.get(kind);
    if (cases === undefined) this.kinds.set(kind, [text]);
    else cases.push(text);
  }

  /** The kinds with all their cases. */
  byKind(): [kind: string, cases: readonly string[]][] {
    return [...this.kinds];
  }

  /** Every case. */
  all(): string[] {
    return [...this.kinds.values()].flat();
  }

  /** For each kind: a heading with the count, the first ten cases, and the number of further cases. */
  summary(): string[] {
    return [...this.kinds].flatMap(([kind, cases]) => {
      const lines = [`${kind}: ${cases.length}`, ...cases.slice(0, MAX_SHOWN_CASES).map((text) => `  ${text}`)];
      if (cases.length > MAX_SHOWN_CASES) lines.push(`  ... and ${cases.length - MAX_SHOWN_CASES} more`);
      return lines;
    });
  }
}
