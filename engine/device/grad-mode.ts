/** Gradient mode: whether ops are put on the tape, and whether gradients may follow later. */
export class GradMode {
  private noGradDepth = 0;
  private rehearsing = false;

  /** Whether ops are put on the tape now. */
  get enabled(): boolean {
    return this.noGradDepth === 0;
  }

  /** Whether the tape is off and the current work is not a rehearsal (`rehearse`). */
  get inference(): boolean {
    return this.noGradDepth > 0 && !this.rehearsing;
  }

  /** Runs `body` without the tape. */
  disable<T>(body: () => T): T {
    this.noGradDepth++;
    try {
      return body();
    } finally {
      this.noGradDepth--;
    }
  }

  /** Runs `body` with the tape, even inside `disable`. */
  enable<T>(body: () => T): T {
    const depth = this.noGradDepth;
    this.noGradDepth = 0;
    try {
      return body();
    } finally {
      this.noGradDepth = depth;
    }
  }

  /** Runs `body` without the tape, for work that is computed again with the tape. */
  rehearse<T>(body: () => T): T {
    const before = this.rehearsing;
    this.rehearsing = true;
    try {
      return this.disable(body);
    } finally {
      this.rehearsing = before;
    }
  }
}
