/**
 * Makes the records of a data set from its annotations: clips boxes to their images, in one place for all formats.
 *
 * It happens first with the sizes that the annotations state, and again when the real sizes are known. It always
 * starts from the boxes of the files, so a wrong size loses no box.
 */
import type { Box, ImageRecord, ObjectAnnotation, Size } from '../core/image-record.ts';
import type { Dataset } from './dataset.ts';
import type { AnnotatedContent, AnnotatedImage, AnnotatedObject, DataFormat, ObjectPlace } from './format.ts';
import { Warnings } from './warnings.ts';

/** An image as training uses it: its real size, and what to do with its boxes. Null: the image is left out. */
export type ImagePlan = {
  readonly size: Size;
  /** Real pixels per pixel of the annotations, [horizontally, vertically]. */
  readonly boxScale: readonly [number, number];
  /** See `ImageRecord`. */
  readonly white?: number;
} | null;

export interface ClipInput {
  readonly root: string;
  readonly format: DataFormat;
  readonly recognized: string;
  readonly notes: readonly string[];
  readonly content: AnnotatedContent;
  readonly readWarnings: Warnings;
}

/** A data set of annotations as read. `planOf` is called once for an image; default: the stated size is right. */
export function clipDataset(
  { root, format, recognized, notes, content, readWarnings }: ClipInput,
  planOf: (image: AnnotatedImage) => ImagePlan = statedPlan,
): Dataset {
  const { classNames, categoryIds, splits: annotated } = content;
  const warnings = new Warnings();
  const known = new Map<AnnotatedImage, ImageRecord | null>();
  const recordOf = (image: AnnotatedImage): ImageRecord | null => {
    let record = known.get(image);
    if (record === undefined) {
      const plan = planOf(image);
      if (plan === null && image.stated === null)
        warnings.add('images of unknown size, left out', `${image.source}: ${image.file}`);
      record = plan && clipImage(image, plan, (index) => format.place(image, index, classNames), warnings);
      known.set(image, record);
    }
    return record;
  };
  // The keys are names from files, so they are set as own properties ("__proto__" included).
  const splits = Object.fromEntries(
    Object.entries(annotated).map(([split, images]) => [split, images.flatMap((image) => recordOf(image) ?? [])]),
  );
  return {
    root,
    format,
    recognized,
    notes,
    classNames,
    categoryIds,
    splits,
    annotated,
    readWarnings,
    warnings: [...readWarnings.summary(), ...warnings.summary()],
    allWarnings: [...readWarnings.all(), ...warnings.all()],
  };
}

const statedPlan = ({ stated }: AnnotatedImage): ImagePlan => stated && { size: stated, boxScale: [1, 1] };

function clipImage(
  { id, file, name, objects }: AnnotatedImage,
  { size: { width, height }, boxScale: [sx, sy], white }: NonNullable<ImagePlan>,
  placeOf: (index: number) => ObjectPlace,
  warnings: Warnings,
): ImageRecord {
  const record: ImageRecord = { id, file, name, width, height, objects: [] };
  if (white !== undefined) record.white = white;
  objects.forEach((object, index) => {
    const [x0, y0, x1, y1] = object.box;
    const scaled: Box = sx === 1 && sy === 1 ? object.box : [x0 * sx, y0 * sy, x1 * sx, y1 * sy];
    const box = clipBox({ box: scaled, width, height, place: () => placeOf(index) }, warnings);
    if (box === null) return;
    const area = object.area === null ? (box[2] - box[0]) * (box[3] - box[1]) : object.area * sx * sy;
    // Most boxes need no change. Sharing them saves memory in data sets of millions of boxes.
    const unchanged = hasArea(object) && object.area === area && object.box === box;
    record.objects.push(unchanged ? object : toObject(object, box, area));
  });
  return record;
}

const hasArea = (object: AnnotatedObject): object is AnnotatedObject & ObjectAnnotation => object.area !== null;

const toObject = ({ id, label, crowd }: AnnotatedObject, box: Box, area: number) => ({
  id,
  label,
  box,
  area,
  crowd,
});

/**
 * Pixels by which a box may reach out of its image without a warning. Annotation files usually have two decimals, and
 * x + width is rounded; 0.005 is half of the last digit.
 */
export const ROUNDING = 0.005;

/** The box of one annotation, and how warnings name it. */
interface AnnotatedBox {
  /** xyxy pixels. */
  readonly box: Box;
  /** Size of the image in pixels. */
  readonly width: number;
  readonly height: number;
  readonly place: () => ObjectPlace;
}

/**
 * The part of a box that lies in its image. Corrections are added to `warnings`.
 * @returns null if the box is degenerate (not finite, no width, or no height) or lies outside its image
 */
function clipBox({ box, width, height, place }: AnnotatedBox, warnings: Warnings): Box | null {
  const [x0, y0, x1, y1] = box;
  if (!box.every(Number.isFinite) || x1 <= x0 || y1 <= y0) {
    const { where, text } = place();
    warnings.add('degenerate boxes, dropped', `${where}: ${text} has no extent`);
    return null;
  }
  const clipped: Box = [Math.max(x0, 0), Math.max(y0, 0), Math.min(x1, width), Math.min(y1, height)];
  const inImage = () => {
    const { where, text } = place();
    return `${where}: ${text} in an image of ${width} x ${height}`;
  };
  if (clipped[2] <= clipped[0] || clipped[3] <= clipped[1]) {
    warnings.add('boxes outside of their image, dropped', inImage());
    return null;
  }
  if (clipped.some((edge, i) => Math.abs(edge - box[i]) > ROUNDING)) {
    warnings.add('boxes that reach out of their image, clipped', inImage());
  }
  return clipped.every((edge, i) => edge === box[i]) ? box : clipped;
}
