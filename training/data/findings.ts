/** What a check of a data set finds. */
import type { AnnotatedImage } from './format.ts';

/** error: the data cannot be used. warning: something is wrong, and corrected or left out. note: good to know. */
export type Severity = 'error' | 'warning' | 'note';

export interface FindingCase {
  /** One case, with its file and field. */
  readonly text: string;
  readonly split?: string;
  readonly image?: AnnotatedImage;
  /** The indices of the objects in question in `image.objects`. */
  readonly objects?: readonly number[];
}

export interface Finding {
  /** A short name that does not change, for programs. */
  readonly kind: string;
  readonly severity: Severity;
  /** What was found, without its count, and what happens to it. */
  readonly title: string;
  /** What the user can do. */
  readonly advice: string;
  readonly cases: readonly FindingCase[];
  /** `--strict` turns the finding into an error. */
  readonly strict: boolean;
  /** Said before every training. */
  readonly brief: boolean;
}

const ORDER: readonly Severity[] = ['error', 'warning', 'note'];

/** The most serious first; equal ones in the given order. Findings without cases are left out. */
export function sortFindings(findings: readonly Finding[]): Finding[] {
  return findings
    .filter(({ cases }) => cases.length > 0)
    .sort((a, b) => ORDER.indexOf(a.severity) - ORDER.indexOf(b.severity));
}

/** With `--strict`, findings marked so are errors. */
export function withStrict(findings: readonly Finding[], strict: boolean): Finding[] {
  return findings.map((finding) => (strict && finding.strict ? { ...finding, severity: 'error' } : finding));
}
