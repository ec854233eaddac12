/** The short check of a data set before a training or an evaluation: progress, warnings, and `--strict`. */
import type { EvaluationResize } from '../core/augmentation.ts';
import { InputError } from '../core/errors.ts';
import { briefLines, checkDataset, requireStrict, surveyDataset, type SurveyedDataset } from '../data/check.ts';
import type { Dataset } from '../data/index.ts';
import { CountProgress } from '../output/count-progress.ts';

export const STRICT_HELP = `--strict         damaged and unreadable images, wrong sizes and wrong forms of boxes
                   are errors (npm run check shows them)`;

export interface ShortCheckOptions {
  /** The sizes that images have for the network. */
  readonly resize: EvaluationResize;
  readonly strict: boolean;
  /** Receives the warnings. */
  readonly log: (line: string) => void;
  /** Opens all splits. All images of more than 8 bits of a data set are scaled alike, also those of other splits. */
  readonly whole?: () => Promise<Dataset>;
}

/** Opens every image that is not in the cache, with progress. */
export async function surveyWithProgress(opened: Dataset, whole?: () => Promise<Dataset>): Promise<SurveyedDataset> {
  const progress = new CountProgress();
  try {
    return await surveyDataset(opened, {
      progress: (done, total) => progress.update('images opened', done, total),
      ...(whole ? { whole } : {}),
    });
  } finally {
    progress.end();
  }
}

/**
 * The data set with the real sizes of its images, and without those that cannot be read. Says what is wrong.
 * @throws InputError if `strict` forbids something that was found, or if no image of a split can be read
 */
export async function shortCheck(opened: Dataset, options: ShortCheckOptions): Promise<Dataset> {
  const { resize, strict, log, whole } = options;
  const surveyed = await surveyWithProgress(opened, whole);
  const { dataset, problem } = surveyed;
  if (problem !== null) log(`warning: ${problem}`);
  const checked = checkDataset(surveyed, { resize, strict });
  if (strict) requireStrict(checked);
  for (const line of [...briefLines(checked), ...dataset.warnings]) log(`warning: ${line}`);
  for (const [split, images] of Object.entries(opened.splits))
    if (images.length > 0 && dataset.splits[split].length === 0 && split !== 'test')
      throw new InputError(
        `${dataset.root}: the split "${split}": expected images, got none of ${images.length} that can be read`,
      );
  return dataset;
}
