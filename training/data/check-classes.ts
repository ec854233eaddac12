/** Finds what is unusual in the classes and in the numbers of objects of a data set. */
import type { ImageRecord } from '../core/image-record.ts';
import type { Dataset } from './dataset.ts';
import type { Finding, FindingCase } from './findings.ts';

/** Objects by class, without crowds, for each split. */
export type ClassCounts = ReadonlyMap<string, readonly number[]>;

/** A class with fewer objects in the training split is rare. */
const RARE = 10;
/** Objects of an image from which it is named. The detector gives at most 100 detections by default. */
const MANY_OBJECTS = 100;
/** Factor between the shares of a class in two splits from which they differ strongly. */
const DIFFERENT_SHARE = 2;
/** Standard deviations by which a count must differ, so that chance does not explain it. */
const DEVIATIONS = 4;

export function countClasses({ splits, classNames }: Pick<Dataset, 'splits' | 'classNames'>): ClassCounts {
  return new Map(
    Object.entries(splits).map(([split, records]) => {
      const counts = new Array<number>(classNames.length).fill(0);
      for (const { objects } of records) for (const { label, crowd } of objects) if (!crowd) counts[label]++;
      return [split, counts];
    }),
  );
}

export function checkClasses(dataset: Dataset, counts: ClassCounts): Finding[] {
  return [...usable(dataset, counts), ...classFindings(dataset.classNames, counts), ...objectNumbers(dataset)];
}

const finding = (
  severity: Finding['severity'],
  kind: string,
  title: string,
  advice: string,
  cases: readonly FindingCase[],
): Finding => ({ kind, severity, title, advice, cases, strict: false, brief: false });

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** What prevents a training, or its evaluation. */
function usable({ splits, root, format }: Dataset, counts: ClassCounts): Finding[] {
  const empty = Object.entries(splits).filter(([, records]) => records.length === 0);
  const without = [...counts].filter(([split, ofSplit]) => sum(ofSplit) === 0 && splits[split].length > 0);
  const noObjects = (split: string) => ({
    split,
    text: `${root}: the split "${split}" has no object (${format.crowdNoun} do not count)`,
  });
  return [
    finding(
      'error',
      'no-images',
      'splits without an image that can be read',
      'see the findings about images that cannot be read',
      empty.map(([split]) => ({ split, text: `${root}: the split "${split}"` })),
    ),
    finding(
      'error',
      'no-objects',
      'training splits without objects',
      'annotate objects, or check that the annotations belong to these images',
      without.filter(([split]) => split === 'train').map(([split]) => noObjects(split)),
    ),
    finding(
      'warning',
      'no-objects-to-measure',
      'splits without objects to measure by; every metric will be -1',
      'move some annotated images to these splits',
      without.filter(([split]) => split !== 'train').map(([split]) => noObjects(split)),
    ),
  ];
}

function classFindings(classNames: readonly string[], counts: ClassCounts): Finding[] {
  const trained = counts.get('train');
  if (trained === undefined) return [];
  const unseen: FindingCase[] = [];
  const rare: FindingCase[] = [];
  const different: FindingCase[] = [];
  classNames.forEach((name, label) => {
    const count = trained[label];
    if (count === 0) unseen.push({ split: 'train', text: `class "${name}"` });
    else if (count < RARE) rare.push({ split: 'train', text: `class "${name}": ${count} objects` });
    for (const [split, ofSplit] of counts) {
      if (split === 'train' || !differs(count, sum(trained), ofSplit[label], sum(ofSplit))) continue;
      const share = (part: number, whole: number) => `${((100 * part) / whole).toFixed(1)} %`;
      different.push({
        split,
        text:
          `class "${name}": ${share(count, sum(trained))} of the objects in "train", ` +
          `${share(ofSplit[label], sum(ofSplit))} in "${split}"`,
      });
    }
  });
  return [
    finding(
      'warning',
      'unseen-classes',
      'classes without an object in the split "train"',
      'annotate objects of these classes, or remove the classes',
      unseen,
    ),
    finding(
      'note',
      'rare-classes',
      `classes with fewer than ${RARE} objects in the split "train"`,
      'annotate more objects of these classes; training.repeatThreshold shows their images more often',
      rare,
    ),
    finding(
      'note',
      'different-classes',
      'classes whose share differs strongly between splits',
      'divide the images at random, or the metrics say little about the training',
      different,
    ),
  ];
}

/** True if the shares of a class in two splits differ by a factor, and by more than chance. */
function differs(count: number, total: number, otherCount: number, otherTotal: number): boolean {
  if (total === 0 || otherTotal === 0) return false;
  const share = (count + otherCount) / (total + otherTotal);
  const deviation = Math.sqrt(share * (1 - share) * (1 / total + 1 / otherTotal));
  const [a, b] = [count / total, otherCount / otherTotal];
  return Math.abs(a - b) > DEVIATIONS * deviation && Math.max(a, b) > DIFFERENT_SHARE * Math.min(a, b);
}

function objectNumbers({ splits, annotated }: Dataset): Finding[] {
  const images = new Map(
    Object.values(annotated)
      .flat()
      .map((image) => [image.file, image]),
  );
  const cases = (include: (record: ImageRecord) => string | null): FindingCase[] =>
    Object.entries(splits).flatMap(([split, records]) =>
      records.flatMap((record) => {
        const text = include(record);
        const image = images.get(record.file);
        return text === null ? [] : [{ split, text: `${record.file} (${split})${text}`, ...(image ? { image } : {}) }];
      }),
    );
  return [
    finding(
      'note',
      'images-without-objects',
      'images without objects; they teach what is background',
      'nothing to do if they show none of the classes',
      cases(({ objects }) => (objects.length === 0 ? '' : null)),
    ),
    finding(
      'note',
      'many-objects',
      `images with more than ${MANY_OBJECTS} objects`,
      'the detector gives at most one detection per proposal: raise model.numProposals, or cut the images into tiles',
      cases(({ objects }) => (objects.length > MANY_OBJECTS ? `: ${objects.length} objects` : null)),
    ),
  ];
}
