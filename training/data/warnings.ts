/** Warnings about annotations that are corrected or dropped, and the correction of boxes that all formats share. */
import type { Box } from '../core/image-record.ts';

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

/**
 * Pixels by which a box may reach out of its image without a warning. Annotation files usually have two decimals, and
 * x + width is rounded; 0.005 is half of the last digit.
 */
const ROUNDING = 0.005;

/** The box of one annotation, and how warnings name it. */
export interface AnnotatedBox {
  /** xyxy pixels. */
  readonly box: Box;
  /** Size of the image in pixels. */
  readonly width: number;
  readonly height: number;
  /** File and annotation. */
  readonly where: string;
  /** The box as the file has it. */
  readonly text: string;
}

/**
 * The part of a box that lies in its image. Corrections are added to `warnings`.
 * @returns null if the box is degenerate (not finite, no width, or no height) or lies outside its image
 */
export function clipBox({ box, width, height, where, text }: AnnotatedBox, warnings: Warnings): Box | null {
  const [x0, y0, x1, y1] = box;
  if (!box.every(Number.isFinite) || x1 <= x0 || y1 <= y0) {
    warnings.add('degenerate boxes, dropped', `${where}: ${text} has no extent`);
    return null;
  }
  const clipped: Box = [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, width), Math.min(y1, height)];
  const inImage = `${where}: ${text} in an image of ${width} x ${height}`;
  if (clipped[2] <= clipped[0] || clipped[3] <= clipped[1]) {
    warnings.add('boxes outside of their image, dropped', inImage);
    return null;
  }
  if (clipped.some((edge, i) => Math.abs(edge - box[i]) > ROUNDING)) {
    warnings.add('boxes that reach out of their image, clipped', inImage);
  }
  return clipped;
}
