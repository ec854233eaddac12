/** Decides the real size of each image from the facts of a survey, and what happens to its boxes. */
import type { Size } from '../core/image-record.ts';
import type { ImagePlan } from './clip-boxes.ts';
import { whiteOf } from './decode.ts';
import type { AnnotatedImage } from './format.ts';
import type { ImageFacts, ReadableFacts } from './image-facts.ts';

/**
 * How the stated size is wrong.
 * - exchanged: width is height and height is width. The real size is used
 * - scaled: another size of the same shape, and the boxes fit the stated size. The boxes are scaled to the real size
 * - other: the real size is used, and the boxes as they are
 */
export type SizeProblem = 'exchanged' | 'scaled' | 'other';

export interface PlannedImage {
  readonly image: AnnotatedImage;
  readonly plan: ImagePlan;
  readonly problem: SizeProblem | null;
}

/** Relative difference of shapes that counts as rounding. */
const SAME_SHAPE = 0.01;
/** Relative difference of two factors that counts as equal. */
const SAME_FACTOR = 0.02;
/** Pixels by which a box may reach out of an image that it fits. */
const TOLERANCE = 1;

/**
 * The plans of all images. An image that occurs twice in `images` occurs once in the result.
 * @param scaledWith the images that decide on the scale of images of more than 8 bits, with those in `facts`
 */
export function planImages(
  images: Iterable<AnnotatedImage>,
  facts: ReadonlyMap<string, ImageFacts>,
  scaledWith: ReadonlyMap<string, ImageFacts> = facts,
): ReadonlyMap<AnnotatedImage, PlannedImage> {
  const readable = new Map<AnnotatedImage, ReadableFacts | null>();
  for (const image of images) {
    const found = facts.get(image.file);
    readable.set(image, found === undefined || found.unreadable !== null ? null : found);
  }
  const white = whiteValue([...readable.values(), ...scaledWith.values()]);
  const scaled = new ScaledGroups(readable);
  const plans = new Map<AnnotatedImage, PlannedImage>();
  for (const [image, found] of readable) {
    if (found === null) {
      plans.set(image, { image, plan: null, problem: null });
      continue;
    }
    const size = realSize(image, found);
    const problem = problemOf(image, size, scaled);
    const boxScale = problem === 'scaled' && image.stated ? factors(image.stated, size) : ([1, 1] as const);
    const deep = found.maximum !== null && white !== null ? { white } : {};
    plans.set(image, { image, plan: { size, boxScale, ...deep }, problem });
  }
  return plans;
}

/** The value of white for all images of more than 8 bits; null if there are none. */
export function whiteValue(facts: Iterable<ImageFacts | null>): number | null {
  let white: number | null = null;
  for (const found of facts) {
    if (found === null || found.unreadable !== null || found.maximum === null) continue;
    white = Math.max(white ?? 1, whiteOf(found.maximum, found.depth));
  }
  return white;
}

const equal = (a: Size, b: Size): boolean => a.width === b.width && a.height === b.height;

/** The size as displayed, unless the annotations state the size as stored: they were made on the stored image. */
function realSize({ stated }: AnnotatedImage, { stored, displayed }: ReadableFacts): Size {
  return stated !== null && equal(stated, stored) && !equal(stated, displayed) ? stored : displayed;
}

function problemOf(image: AnnotatedImage, size: Size, scaled: ScaledGroups): SizeProblem | null {
  const { stated } = image;
  if (stated === null || equal(stated, size)) return null;
  if (stated.width === size.height && stated.height === size.width) return 'exchanged';
  return scaled.has(stated, size) ? 'scaled' : 'other';
}

/** Real pixels per stated pixel, [horizontally, vertically]. */
const factors = (stated: Size, size: Size): [number, number] => [
  size.width / stated.width,
  size.height / stated.height,
];

/** The factor between two sizes of the same shape; null if the shapes differ. */
function commonFactor(stated: Size, size: Size): number | null {
  const [x, y] = factors(stated, size);
  // A side is rounded to whole pixels.
  const rounding = 1 / Math.min(size.width, size.height, stated.width, stated.height);
  return Math.abs(x / y - 1) <= Math.max(SAME_SHAPE, rounding) ? Math.sqrt(x * y) : null;
}

/**
 * Images of another size than stated, but of the same shape. Either the images were resized after they were annotated,
 * or only the stated size is wrong. All images of one factor decide together: the boxes are in pixels of the stated
 * size if all of them fit it, and some would reach out of the real one (or the real one is larger).
 */
class ScaledGroups {
  private readonly groups: { factor: number; fitStated: boolean; fitReal: boolean }[] = [];

  constructor(readable: ReadonlyMap<AnnotatedImage, ReadableFacts | null>) {
    for (const [image, found] of readable) {
      if (found === null || image.stated === null) continue;
      const size = realSize(image, found);
      const factor = equal(image.stated, size) ? null : commonFactor(image.stated, size);
      if (factor === null) continue;
      const group = this.groupOf(factor) ?? { factor, fitStated: true, fitReal: true };
      if (!this.groups.includes(group)) this.groups.push(group);
      group.fitStated &&= fits(image, image.stated);
      group.fitReal &&= fits(image, size);
    }
  }

  has(stated: Size, size: Size): boolean {
    const factor = commonFactor(stated, size);
    const group = factor === null ? undefined : this.groupOf(factor);
    return group?.fitStated === true && (group.factor > 1 || !group.fitReal);
  }

  private groupOf(factor: number) {
    return this.groups.find((group) => Math.abs(group.factor / factor - 1) <= SAME_FACTOR);
  }
}

function fits({ objects }: AnnotatedImage, { width, height }: Size): boolean {
  return objects.every(({ box: [, , x1, y1] }) => !(x1 > width + TOLERANCE || y1 > height + TOLERANCE));
}
