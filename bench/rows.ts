/** Measured rows of the kernel benchmark: their rates, and the text that `--only` filters by. */
import type { Timing } from './measure.ts';

export interface MicroRow {
  readonly preset: 'paper' | 'small';
  readonly op: string;
  readonly shape: string;
  readonly part: string;
  readonly flops: number;
  readonly bytes: number;
  /** Largest error relative to the root mean square of the expected values. */
  readonly error: number;
  readonly status: 'ok' | 'WRONG';
  readonly timing: Timing;
}

export const gigaflops = ({ flops, timing }: Pick<MicroRow, 'flops' | 'timing'>): number => flops / timing.median / 1e6;
export const gigabytes = ({ bytes, timing }: Pick<MicroRow, 'bytes' | 'timing'>): number => bytes / timing.median / 1e6;

/** Operations per byte, if each value is moved once. */
export const intensity = ({ flops, bytes }: Pick<MicroRow, 'flops' | 'bytes'>): number => flops / bytes;

/** The text that `--only` is matched with: preset, op, shape and part. */
export const rowText = (
  preset: string,
  { op, shape }: { readonly op: string; readonly shape: string },
  part: string,
): string => `${preset} ${op} ${shape} ${part}`;

/** The error for an `--only` that matches no row. */
export const noRow = (only: RegExp | null): string =>
  `bench: --only: expected a pattern that matches a row such as "paper matmul nn 256^3 forward", got ${only?.source}`;
