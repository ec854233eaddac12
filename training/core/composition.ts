/**
 * The geometry of a training image: one image, or four in a mosaic, on a canvas. Plans are drawn here, and map boxes.
 * `data/loader.ts` applies them to pixels.
 */
import type { Random } from '../../engine/core/random.ts';
import { usesCanvas, type Augmentation } from './augmentation.ts';
import { drawColorChange, type ColorChange } from './color-change.ts';
import type { Box, ImageRecord, Size } from './image-record.ts';
import { CUT_TRIES, drawCrop, planAugmentation, resizedSize, transformBox } from './transforms.ts';
import type { Cut, ImageTransform } from './transforms.ts';

/** One image, or the part of it that is visible, at its place in the result. */
export interface Piece {
  /** Index of the image in the list of records. */
  index: number;
  /** Gives the piece's pixels before `flipVertical` and `transpose`, which follow in this order. */
  transform: ImageTransform;
  flipVertical: boolean;
  /** Exchanges x and y: together with a flip, a turn by 90 degrees. */
  transpose: boolean;
  color: ColorChange | null;
  /** Upper left corner in the result. */
  x: number;
  y: number;
}

/** A training image: pieces that do not overlap, on a canvas of this size. */
export interface Composition extends Size {
  pieces: Piece[];
}

/** The visible objects of a composition. */
export interface VisibleObjects {
  /** xyxy in pixels of the result, four numbers per object. */
  boxes: number[];
  labels: number[];
}

export interface CompositionOptions {
  records: readonly ImageRecord[];
  augmentation: Augmentation;
  /** Size of all results; null if each image keeps its own (`canvasOf`). */
  canvas: Size | null;
}

/** In a mosaic, the point where the cells meet lies between these shares of the sides. */
const CENTER_RANGE = [0.3, 0.7] as const;
/** Factors of the size of images in a mosaic: from images that fit into an average cell to images of full size. */
const CELL_SCALES = [0.5, 1] as const;

/** The canvas of a run; null if the augmentation needs none. */
export function canvasOf(records: readonly Size[], augmentation: Augmentation): Size | null {
  if (!usesCanvas(augmentation)) return null;
  const sizes = records.map((record) => largestResize(record, augmentation));
  const upperMedian = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  return {
    width: upperMedian(sizes.map(({ width }) => width)),
    height: upperMedian(sizes.map(({ height }) => height)),
  };
}

/**
 * The size in which an image is kept between epochs: that of the file, or less if no plan needs as much. The plans of
 * images on a canvas cut from this size.
 */
export function workingSize(size: Size, augmentation: Augmentation): Size {
  const { crop, shortSides, fixedSize, scale, aspectJitter, rotate90 } = augmentation;
  const factor = scale[1] * Math.sqrt(1 + aspectJitter);
  let { width, height } = largestResize(size, augmentation);
  if (fixedSize && rotate90 > 0) width = height = Math.max(width, height);
  let needed = factor * Math.max(width / size.width, height / size.height);
  if (crop !== null && crop.probability > 0) {
    // A crop becomes an image of full size, so it needs more pixels than the whole image.
    if (crop.shortSides.length === 0 || fixedSize) needed = 1;
    else {
      const before = Math.max(...crop.shortSides);
      const enlargement = Math.max(...shortSides) / Math.min(crop.minSize, before);
      const short = before * Math.max(1, enlargement) * factor;
      needed = Math.max(needed, short / Math.min(size.width, size.height));
    }
  }
  return needed >= 1
    ? { width: size.width, height: size.height }
    : { width: Math.ceil(size.width * needed), height: Math.ceil(size.height * needed) };
}

function largestResize(size: Size, { shortSides, maxSize, fixedSize }: Augmentation): Size {
  return fixedSize
    ? { height: fixedSize[0], width: fixedSize[1] }
    : resizedSize(size, Math.max(...shortSides), maxSize);
}

/**
 * Draws the plan of a training image.
 * @param index     the image, as an index of the records
 * @param drawOther draws another image for a mosaic; null: no mosaic
 */
export function planComposition(
  options: CompositionOptions,
  index: number,
  random: Random,
  drawOther: (() => number) | null,
): Composition {
  const { augmentation, canvas } = options;
  if (canvas === null) return planSingle(options, index, random);
  const { width, height } = canvas;
  const mosaic = augmentation.mosaic > 0 && random.uniform() < augmentation.mosaic;
  if (!mosaic || drawOther === null || Math.min(width, height) < 4)
    return { width, height, pieces: [planPiece(options, index, random, { x: 0, y: 0, width, height }, null)] };

  const [low, high] = CENTER_RANGE;
  const between = (side: number) => Math.round(side * (low + (high - low) * random.uniform()));
  const center = { x: between(width), y: between(height) };
  const pieces = [0, 1, 2, 3].map((cell) => {
    const [right, lower] = [cell % 2, Math.floor(cell / 2)];
    const place = {
      x: right * center.x,
      y: lower * center.y,
      width: right ? width - center.x : center.x,
      height: lower ? height - center.y : center.y,
    };
    return planPiece(options, cell === 0 ? index : drawOther(), random, place, center);
  });
  return { width, height, pieces };
}

/** An image of its own size, without a canvas. */
function planSingle({ records, augmentation }: CompositionOptions, index: number, random: Random): Composition {
  const record = records[index];
  const transform = planAugmentation(record, augmentation, random, cutTest(record, augmentation));
  const flipVertical = augmentation.flipVertical > 0 && random.uniform() < augmentation.flipVertical;
  const color = drawColorChange(augmentation.color, random);
  const { width, height } = transform;
  return { width, height, pieces: [{ index, transform, flipVertical, transpose: false, color, x: 0, y: 0 }] };
}

type Place = Size & { x: number; y: number };

/**
 * Draws the piece of a place on the canvas.
 * @param center the point where the cells of a mosaic meet, which smaller pieces touch; null: no mosaic
 */
function planPiece(
  { records, augmentation }: CompositionOptions,
  index: number,
  random: Random,
  place: Place,
  center: { x: number; y: number } | null,
): Piece {
  const record = records[index];
  let flip = random.uniform() < augmentation.flip;
  let flipVertical = random.uniform() < augmentation.flipVertical;
  const quarters = random.uniform() < augmentation.rotate90 ? 1 + random.integer(3) : 0;
  // One quarter is a vertical flip and a transposition, three quarters a horizontal flip and a transposition.
  if (quarters === 1 || quarters === 2) flipVertical = !flipVertical;
  if (quarters === 2 || quarters === 3) flip = !flip;
  const transpose = quarters % 2 === 1;

  const accepts = cutTest(record, augmentation);
  const region = drawRegion(record, augmentation, random, accepts);
  const scaled = drawScaledSize(region.original, augmentation, random, { transpose, inMosaic: center !== null });
  const window = transpose ? { width: place.height, height: place.width } : place;
  const transform = { ...drawView(region, scaled, window, random, accepts), flip };
  const color = drawColorChange(augmentation.color, random);

  const shown = transpose ? { width: transform.height, height: transform.width } : transform;
  const free = { x: place.width - shown.width, y: place.height - shown.height };
  const offset =
    center === null
      ? { x: random.integer(free.x + 1), y: random.integer(free.y + 1) }
      : { x: place.x < center.x ? free.x : 0, y: place.y < center.y ? free.y : 0 };
  return { index, transform, flipVertical, transpose, color, x: place.x + offset.x, y: place.y + offset.y };
}

/** The whole image, or a random crop of it. */
interface Region {
  working: Size;
  /** In pixels of `working`. */
  crop: Place;
  /** The region's size before the resize to `shortSides`. */
  original: Size;
}

function drawRegion(record: ImageRecord, augmentation: Augmentation, random: Random, accepts: CutTest): Region {
  const working = workingSize(record, augmentation);
  const drawn = drawCrop(record, augmentation.crop, random, accepts);
  if (drawn === null) return { working, crop: { x: 0, y: 0, ...working }, original: record };
  const { crop, uncropped } = drawn;
  const whole = { x: 0, y: 0, ...working };
  return { working, crop: partOf(whole, crop, uncropped), original: crop };
}

/** The part of an integer rectangle that corresponds to `part` of an image of `size`, in whole pixels. */
function partOf(whole: Place, part: Place, size: Size): Place {
  const [x, width] = span(whole.width, part.x, part.width, size.width);
  const [y, height] = span(whole.height, part.y, part.height, size.height);
  return { x: whole.x + x, y: whole.y + y, width, height };
}

/** Start and length, both whole, of the part of `whole` that corresponds to `length` of `total` from `start` on. */
function span(whole: number, start: number, length: number, total: number): [start: number, length: number] {
  const from = Math.min(whole - 1, Math.round((start * whole) / total));
  const to = Math.min(whole, Math.max(from + 1, Math.round(((start + length) * whole) / total)));
  return [from, to - from];
}

/** The size of the whole region in the result, before the canvas cuts it. */
function drawScaledSize(
  size: Size,
  { shortSides, maxSize, fixedSize, scale, aspectJitter }: Augmentation,
  random: Random,
  { transpose, inMosaic }: { transpose: boolean; inMosaic: boolean },
): Size {
  const [fixedHeight, fixedWidth] = (transpose ? fixedSize?.toReversed() : fixedSize) ?? [];
  const base =
    fixedWidth !== undefined && fixedHeight !== undefined
      ? { width: fixedWidth, height: fixedHeight }
      : resizedSize(size, shortSides[random.integer(shortSides.length)], maxSize);
  const between = ([low, high]: readonly [number, number]) => low + (high - low) * random.uniform();
  // The product of both factors must not make objects smaller than either factor alone.
  const factor = inMosaic
    ? Math.max(between(scale) * between(CELL_SCALES), Math.min(scale[0], CELL_SCALES[0]))
    : between(scale);
  const stretch = Math.sqrt((1 + aspectJitter) ** between([-1, 1]));
  return {
    width: Math.max(1, Math.round(base.width * factor * stretch)),
    height: Math.max(1, Math.round((base.height * factor) / stretch)),
  };
}

/** Draws the part of the region that the window shows, as a transform without flip. */
function drawView(
  { working, crop: whole }: Region,
  scaled: Size,
  window: Size,
  random: Random,
  accepts: CutTest,
): ImageTransform {
  const visible = { width: Math.min(scaled.width, window.width), height: Math.min(scaled.height, window.height) };
  const at = (x: number, y: number): Cut => ({
    uncropped: working,
    crop: partOf(whole, { x, y, ...visible }, scaled),
  });
  const hidden = { x: scaled.width - visible.width, y: scaled.height - visible.height };
  const draw = () => at(random.integer(hidden.x + 1), random.integer(hidden.y + 1));
  let cut = draw();
  if (hidden.x > 0 || hidden.y > 0) for (let tries = 1; tries < CUT_TRIES && !accepts(cut); tries++) cut = draw();
  return { ...cut, ...visible, flip: false };
}

/** Whether a cut may be used: it shows an object, or the image has none, or the settings do not ask for one. */
type CutTest = (cut: Cut) => boolean;

function cutTest(record: ImageRecord, { keepObject, minVisible }: Augmentation): CutTest {
  if (!keepObject) return () => true;
  const boxes = record.objects.filter(({ crowd }) => !crowd).map(({ box }) => box);
  if (boxes.length === 0) return () => true;
  return ({ uncropped, crop }) => {
    const scaleX = uncropped.width / record.width,
      scaleY = uncropped.height / record.height;
    const transform: ImageTransform = { uncropped, crop, width: crop.width, height: crop.height, flip: false };
    return boxes.some((box) => {
      const x = ((box[0] + box[2]) / 2) * scaleX - crop.x,
        y = ((box[1] + box[3]) / 2) * scaleY - crop.y;
      const centered = x >= 0 && y >= 0 && x <= crop.width && y <= crop.height;
      return centered && visibleBox(box, transform, record, minVisible) !== null;
    });
  };
}

/** The visible part of a box in the transformed image; null if less than `minVisible` of its area remains. */
function visibleBox(box: Box, transform: ImageTransform, size: Size, minVisible: number): Box | null {
  const visible = transformBox(box, transform, size);
  if (visible === null || minVisible === 0) return visible;
  const { uncropped, crop, width, height } = transform;
  const scaleX = ((uncropped?.width ?? width) / size.width) * (crop ? width / crop.width : 1);
  const scaleY = ((uncropped?.height ?? height) / size.height) * (crop ? height / crop.height : 1);
  const whole = (box[2] - box[0]) * scaleX * (box[3] - box[1]) * scaleY;
  const area = (visible[2] - visible[0]) * (visible[3] - visible[1]);
  // Rounding must not drop a box that is visible as a whole.
  return area >= minVisible * whole * (1 - 1e-9) ? visible : null;
}

/** A box of an original image in the result; null if too little of it is visible. */
export function pieceBox(box: Box, piece: Piece, size: Size, minVisible: number): Box | null {
  const { transform, flipVertical, transpose, x, y } = piece;
  const visible = visibleBox(box, transform, size, minVisible);
  if (visible === null) return null;
  let [left, top, right, bottom] = visible;
  if (flipVertical) [top, bottom] = [transform.height - bottom, transform.height - top];
  if (transpose) [left, top, right, bottom] = [top, left, bottom, right];
  return [left + x, top + y, right + x, bottom + y];
}

/** The visible objects of all pieces. Crowds are no targets. */
export function visibleObjects(
  { pieces }: Composition,
  records: readonly ImageRecord[],
  minVisible: number,
): VisibleObjects {
  const boxes: number[] = [];
  const labels: number[] = [];
  for (const piece of pieces) {
    const record = records[piece.index];
    for (const object of record.objects) {
      const box = object.crowd ? null : pieceBox(object.box, piece, record, minVisible);
      if (box === null) continue;
      boxes.push(...box);
      labels.push(object.label);
    }
  }
  return { boxes, labels };
}
