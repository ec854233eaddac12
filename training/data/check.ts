/** Checks a data set: opens its images once, corrects what the annotations state wrongly, and lists what is wrong. */
import type { EvaluationResize } from '../core/augmentation.ts';
import { InputError } from '../core/errors.ts';
import { planEvaluation } from '../core/transforms.ts';
import { checkBoxes } from './check-boxes.ts';
import { checkClasses, countClasses, type ClassCounts } from './check-classes.ts';
import { checkImages } from './check-images.ts';
import { clipDataset } from './clip-boxes.ts';
import type { Dataset } from './dataset.ts';
import { factsFile } from './facts-cache.ts';
import { sortFindings, withStrict, type Finding } from './findings.ts';
import type { AnnotatedImage } from './format.ts';
import type { ImageFacts } from './image-facts.ts';
import { planImages, type PlannedImage } from './image-plans.ts';
import { UNREADABLE } from './image-sizes.ts';
import { surveyImages, type SurveyOptions } from './survey.ts';
import { MAX_SHOWN_CASES, type Warnings } from './warnings.ts';

export interface SurveyedDataset {
  /** With real sizes, and without the images that cannot be read. */
  readonly dataset: Dataset;
  readonly facts: ReadonlyMap<string, ImageFacts>;
  readonly plans: ReadonlyMap<AnnotatedImage, PlannedImage>;
  /** A sentence about the cache if it cannot be used; else null. */
  readonly problem: string | null;
}

export interface CheckedDataset extends SurveyedDataset {
  /** The most serious first. */
  readonly findings: readonly Finding[];
  readonly counts: ClassCounts;
}

export interface SurveyDatasetOptions extends Partial<SurveyOptions> {
  /** Opens all splits, if images of more than 8 bits are to be scaled as in the whole data set. */
  readonly whole?: () => Promise<Dataset>;
}

/** Opens every image once. The result has the real sizes, and boxes clipped to them. */
export async function surveyDataset(opened: Dataset, options: SurveyDatasetOptions = {}): Promise<SurveyedDataset> {
  const { classNames, categoryIds, annotated, readWarnings } = opened;
  const images = Object.values(annotated).flat();
  const survey = { cache: factsFile(opened.root), ...options };
  const { facts, problem } = await surveyImages(filesOf(images), survey);
  const deep = [...facts.values()].some((found) => found.unreadable === null && found.maximum !== null);
  const scaledWith = deep && options.whole ? await factsOfWhole(options.whole, survey) : facts;
  const plans = planImages(images, facts, scaledWith);
  const content = { classNames, categoryIds, splits: annotated };
  const dataset = clipDataset({ ...opened, content, readWarnings }, (image) => plans.get(image)?.plan ?? null);
  return { dataset, facts, plans, problem };
}

/** Facts of all splits. If they cannot be opened, the images of the checked splits alone decide on their scale. */
async function factsOfWhole(
  whole: () => Promise<Dataset>,
  survey: SurveyOptions,
): Promise<ReadonlyMap<string, ImageFacts>> {
  try {
    const { annotated } = await whole();
    return (await surveyImages(filesOf(Object.values(annotated).flat()), survey)).facts;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return new Map();
  }
}

const filesOf = (images: readonly AnnotatedImage[]): string[] => images.map(({ file }) => file);

/**
 * Lists what is wrong with a data set.
 * @param resize the sizes that images have in a training
 * @param strict damaged and unreadable images, wrong sizes and wrong forms of boxes are errors
 */
export function checkDataset(
  surveyed: SurveyedDataset,
  { resize, strict = false }: { readonly resize: EvaluationResize; readonly strict?: boolean },
): CheckedDataset {
  const { dataset, facts, plans } = surveyed;
  const { annotated, format, classNames, readWarnings } = dataset;
  const counts = countClasses(dataset);
  const findings = [
    ...checkImages({ annotated, facts, plans }),
    ...checkBoxes({ annotated, plans, format, classNames, trainingSize: (size) => planEvaluation(size, resize) }),
    ...readingFindings(readWarnings),
    ...checkClasses(dataset, counts),
  ];
  return { ...surveyed, counts, findings: sortFindings(withStrict(findings, strict)) };
}

/** What was corrected or left out while the annotations were read. */
function readingFindings(warnings: Warnings): Finding[] {
  return warnings.byKind().map(([kind, cases]) => ({
    kind: `reading: ${kind}`,
    severity: 'warning',
    title: kind,
    advice: 'correct the annotations if this is not what you want',
    cases: cases.map((text) => ({ text })),
    strict: kind === UNREADABLE,
    brief: false,
  }));
}

/** The lines of a finding: its title with the count, the first cases, and what to do. */
export function findingLines({ title, cases, advice }: Finding, shown = MAX_SHOWN_CASES): string[] {
  const more = cases.length > shown ? [`  ... and ${cases.length - shown} more`] : [];
  return [`${title}: ${cases.length}`, ...cases.slice(0, shown).map(({ text }) => `  ${text}`), ...more, `  ${advice}`];
}

/** What is said before a training: findings that no other message names. */
export function briefLines({ findings }: Pick<CheckedDataset, 'findings'>): string[] {
  return findings.filter(({ brief }) => brief).flatMap((finding) => findingLines(finding));
}

/** Throws InputError if `--strict` forbids something that was found. */
export function requireStrict({ dataset, findings }: Pick<CheckedDataset, 'dataset' | 'findings'>): void {
  const forbidden = findings.filter(({ strict }) => strict);
  if (forbidden.length === 0) return;
  const lines = forbidden.flatMap((finding) => findingLines(finding));
  throw new InputError(`${dataset.root}: --strict: expected intact data, got\n${lines.join('\n')}`);
}
