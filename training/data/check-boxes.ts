/** Finds what is wrong with the boxes of a data set: outside, tiny, doubled, or written in another form. */
import type { Box, Size } from '../core/image-record.ts';
import { ROUNDING } from './clip-boxes.ts';
import type { Finding, FindingCase } from './findings.ts';
import { numbersOf, type AnnotatedContent, type AnnotatedImage, type DataFormat } from './format.ts';
import type { PlannedImage } from './image-plans.ts';

export interface CheckedBoxes {
  readonly annotated: AnnotatedContent['splits'];
  readonly plans: ReadonlyMap<AnnotatedImage, PlannedImage>;
  readonly format: DataFormat;
  readonly classNames: readonly string[];
  /** Size of an image for the network. */
  readonly trainingSize: (size: Size) => Size;
}

/** The sides below which a box counts as tiny, in pixels of the image and of the network's input. */
const TINY = 1;
const TINY_IN_TRAINING = 2;
/** Intersection over union above which two boxes of a class are one object. */
const SAME_BOX = 0.95;
/** Fewer boxes that reach out are no evidence for another form. */
const MIN_EVIDENCE = 3;

export function checkBoxes(input: CheckedBoxes): Finding[] {
  const cases: Record<BoxProblem, FindingCase[]> = { degenerate: [], outside: [], reaching: [], tiny: [], doubled: [] };
  const wrongForms: FindingCase[] = [];
  const seen = new Set<AnnotatedImage>();
  for (const [split, images] of Object.entries(input.annotated)) {
    const form = new FormEvidence(input.format);
    for (const image of images) {
      const plan = input.plans.get(image)?.plan;
      if (!plan || seen.has(image)) continue;
      seen.add(image);
      image.objects.forEach(({ box }) => form.add(box, image.stated ?? plan.size));
      checkImage(image, split, input, cases);
    }
    const text = form.conclusion();
    if (text !== null)
      wrongForms.push({ split, text: `split "${split}": ${text}`, ...worstImage(images, input.plans) });
  }
  return findingsOf(cases, wrongForms);
}

type BoxProblem = 'degenerate' | 'outside' | 'reaching' | 'tiny' | 'doubled';

function checkImage(
  image: AnnotatedImage,
  split: string,
  { plans, format, classNames, trainingSize }: CheckedBoxes,
  cases: Record<BoxProblem, FindingCase[]>,
): void {
  const plan = plans.get(image)?.plan;
  if (!plan) return;
  const { size, boxScale } = plan;
  const network = trainingSize(size);
  const add = (problem: BoxProblem, index: number, detail: string, others: readonly number[] = []): void => {
    const { where, text } = format.place(image, index, classNames);
    cases[problem].push({ split, image, objects: [index, ...others], text: `${where}: ${text}${detail}` });
  };
  const inImage = ` in an image of ${size.width} x ${size.height}`;
  const boxes = image.objects.map(({ box: [x0, y0, x1, y1] }): Box => {
    const [sx, sy] = boxScale;
    return [x0 * sx, y0 * sy, x1 * sx, y1 * sy];
  });
  boxes.forEach((box, index) => {
    const [x0, y0, x1, y1] = box;
    if (!box.every(Number.isFinite) || x1 <= x0 || y1 <= y0) {
      add('degenerate', index, ' has no extent');
      return;
    }
    const [width, height] = [Math.min(x1, size.width) - Math.max(x0, 0), Math.min(y1, size.height) - Math.max(y0, 0)];
    if (width <= 0 || height <= 0) {
      add('outside', index, inImage);
      return;
    }
    if (Math.min(x0, y0) < -ROUNDING || x1 > size.width + ROUNDING || y1 > size.height + ROUNDING)
      add('reaching', index, inImage);
    const trained = Math.min((width * network.width) / size.width, (height * network.height) / size.height);
    if (Math.min(width, height) < TINY || trained < TINY_IN_TRAINING)
      add('tiny', index, ` has a side of ${trained.toFixed(1)} pixels in training`);
  });
  for (const [first, second] of doubled(boxes, image)) add('doubled', second, ', the same as another one', [first]);
}

/** Pairs of objects of one class with almost the same box. Each object is in one pair at most as the second. */
function doubled(boxes: readonly Box[], { objects }: AnnotatedImage): [number, number][] {
  const order = boxes
    .map((_, index) => index)
    .filter((index) => boxes[index].every(Number.isFinite) && !objects[index].crowd)
    .sort((a, b) => boxes[a][0] - boxes[b][0] || a - b);
  const pairs: [number, number][] = [];
  order.forEach((first, at) => {
    const [x0, , x1] = boxes[first];
    // Boxes further to the right overlap less than SAME_BOX.
    const limit = x0 + (1 - SAME_BOX) * (x1 - x0);
    for (const second of order.slice(at + 1)) {
      if (boxes[second][0] > limit) break;
      if (objects[first].label === objects[second].label && overlap(boxes[first], boxes[second]) > SAME_BOX) {
        pairs.push(first < second ? [first, second] : [second, first]);
        break;
      }
    }
  });
  return pairs;
}

/** Intersection over union. */
function overlap(a: Box, b: Box): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box: Box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

/** Counts whether the boxes of a split make more sense in another form than that of the format. */
class FormEvidence {
  private total = 0;
  private wrong = 0;
  private fitting = 0;

  constructor(private readonly format: DataFormat) {}

  add(box: Box, { width, height }: Size): void {
    if (!box.every(Number.isFinite)) return;
    const numbers = numbersOf(box, this.format.boxForm);
    const corners = this.format.boxForm === 'corners';
    this.total++;
    const inside = ([x0, y0, x1, y1]: Box) =>
      x0 >= -1 && y0 >= -1 && x1 <= width + 1 && y1 <= height + 1 && x1 > x0 && y1 > y0;
    if (!inside(box)) this.wrong++;
    const [a, b, c, d] = numbers;
    if (inside(corners ? [a, b, a + c, b + d] : numbers)) this.fitting++;
  }

  /** What is written instead, in a sentence; null without evidence. */
  conclusion(): string | null {
    if (this.wrong < MIN_EVIDENCE || 2 * this.wrong <= this.total || this.fitting < this.total) return null;
    const counts = `${this.wrong} of ${this.total} boxes do not fit their images`;
    const [expected, found] = {
      corners: ['corners x0, y0, x1, y1', 'x, y, width, height'],
      'corner and size': ['x, y, width, height', 'corners x0, y0, x1, y1'],
      'center and size': ['center x, center y, width, height', 'corners x0, y0, x1, y1'],
    }[this.format.boxForm];
    return `boxes: expected ${expected}, got ${found}, it seems: ${counts}, but all fit if they are read that way`;
  }
}

/** The image with the most boxes that reach out, to draw it. */
function worstImage(
  images: readonly AnnotatedImage[],
  plans: CheckedBoxes['plans'],
): Pick<FindingCase, 'image' | 'objects'> {
  let worst: AnnotatedImage | undefined;
  let objects: readonly number[] = [];
  for (const image of images) {
    const size = plans.get(image)?.plan?.size;
    if (!size) continue;
    const out = image.objects.flatMap(({ box }, i) => (box[2] > size.width || box[3] > size.height ? [i] : []));
    if (out.length > objects.length) [worst, objects] = [image, out];
  }
  return worst === undefined ? {} : { image: worst, objects };
}

function findingsOf(cases: Record<BoxProblem, FindingCase[]>, wrongForms: readonly FindingCase[]): Finding[] {
  const found = (
    severity: Finding['severity'],
    problem: BoxProblem,
    title: string,
    advice: string,
    brief = false,
  ): Finding => ({ kind: `boxes-${problem}`, severity, title, advice, cases: cases[problem], strict: false, brief });
  return [
    {
      kind: 'box-form',
      severity: 'warning',
      title: 'splits whose boxes seem to be written in another form than the format has',
      advice:
        'convert the boxes to the form of the format, or export again: a training on such boxes learns wrong ' +
        'objects. The page of --out shows them',
      cases: wrongForms,
      strict: true,
      brief: true,
    },
    found('warning', 'degenerate', 'degenerate boxes, dropped', 'remove them, or draw them again'),
    found('warning', 'outside', 'boxes outside of their image, dropped', 'check the size and the form of the boxes'),
    found(
      'warning',
      'reaching',
      'boxes that reach out of their image, clipped',
      'nothing to do if it is a pixel or two',
    ),
    found(
      'warning',
      'doubled',
      'objects annotated twice',
      'remove one of the two, or the detector learns to find both',
      true,
    ),
    found(
      'note',
      'tiny',
      `boxes with a side below ${TINY} pixel, or below ${TINY_IN_TRAINING} pixels in training`,
      'train with larger images (--set augmentation.shortSides=[...]), or remove them',
    ),
  ];
}
