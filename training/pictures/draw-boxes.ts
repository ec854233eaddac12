/**
 * Draws boxes with names and scores on an image.
 * Boxes are [x1, y1, x2, y2] in pixels of the image. Small images are enlarged so that tags can be read.
 */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import { decodeImage, type PixelImage } from '../data/images.ts';
import { colorOf } from './colors.ts';
import { drawTag, placeTags } from './tags.ts';

export interface DrawnBox {
  /** [x1, y1, x2, y2], pixels of the image. Parts outside the picture are cut off. */
  box: readonly [number, number, number, number];
  /** 0-based class index, which decides the color. */
  label: number;
  /** Text of the tag. A box with an empty name and no score has no tag. */
  name: string;
  /** Shown behind the name with two decimals. */
  score?: number;
}

export interface DrawOptions {
  /** Drawn over the boxes as thin dashed white frames without tags, so that both are visible where they agree. */
  groundTruth?: readonly DrawnBox[];
  /** Picture pixels per image pixel. Default: the smallest integer that makes the longer side 480, at most 8. */
  scale?: number;
  /** Draws on the image before the boxes; `scale` is the number of picture pixels per image pixel. */
  underlay?: (context: SKRSContext2D, scale: number) => void;
}

/** Length of the longer side at which tags are legible, pixels. Smaller images are enlarged to it. */
const LEGIBLE_SIDE = 480;
const MAX_ENLARGEMENT = 8;

/**
 * Draws boxes with tags (name and score) on an image.
 * The tags of boxes with higher scores are placed first; these boxes and tags are drawn on top.
 * @param image a file, decoded as for training (upright by its EXIF orientation), or its pixels
 * @throws InputError if the file cannot be decoded, and Error for malformed boxes, pixels or scale
 */
export async function drawBoxes(
  image: string | PixelImage,
  boxes: readonly DrawnBox[],
  options: DrawOptions = {},
): Promise<Canvas> {
  const groundTruth = options.groundTruth ?? [];
  checkBoxes(boxes, 'boxes');
  checkBoxes(groundTruth, 'groundTruth');
  const raw = typeof image === 'string' ? await decodeImage(image) : image;
  const expectedBytes = raw.width * raw.height * 3;
  if (raw.data.length !== expectedBytes) {
    throw new Error(
      `drawBoxes: image.data: expected height * width * 3 = ${expectedBytes} bytes, got ${raw.data.length}`,
    );
  }
  const enlargement = Math.ceil(LEGIBLE_SIDE / Math.max(raw.width, raw.height));
  const scale = options.scale ?? Math.min(MAX_ENLARGEMENT, Math.max(1, enlargement));
  if (!(scale > 0 && Number.isFinite(scale)))
    throw new Error(`drawBoxes: scale: expected a positive number, got ${scale}`);

  const canvas = createCanvas(Math.max(1, Math.round(raw.width * scale)), Math.max(1, Math.round(raw.height * scale)));
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = 'high';
  context.drawImage(toCanvas(raw), 0, 0, canvas.width, canvas.height);
  options.underlay?.(context, scale);

  const longSide = Math.max(canvas.width, canvas.height);
  const lineWidth = Math.max(2, Math.round(longSide / 240));
  const fontSize = Math.min(28, Math.max(13, Math.round(longSide / 44)));
  const byScore = [...boxes].sort((a, b) => (a.score ?? 1) - (b.score ?? 1));
  for (const { box, label } of byScore) drawFrame(context, onCanvas(box, scale, canvas, lineWidth), label, lineWidth);
  const thinLine = Math.max(1.25, lineWidth / 3);
  for (const { box } of groundTruth) drawFrame(context, onCanvas(box, scale, canvas, thinLine), null, thinLine);
  const captions = byScore.toReversed().map(({ box, label, name, score }) => ({
    text: [name, score === undefined ? '' : score.toFixed(2)].filter((part) => part !== '').join(' '),
    color: colorOf(label),
    corners: onCanvas(box, scale, canvas, lineWidth),
  }));
  const tags = placeTags(context, captions, lineWidth, fontSize);
  for (const tag of tags.toReversed()) drawTag(context, tag);
  return canvas;
}

function checkBoxes(boxes: readonly DrawnBox[], name: string): void {
  boxes.forEach(({ box, label }, index) => {
    if (!box.every(Number.isFinite) || box[2] < box[0] || box[3] < box[1]) {
      const expected = '[x1, y1, x2, y2] with x1 <= x2 and y1 <= y2';
      throw new Error(`drawBoxes: ${name}[${index}].box: expected ${expected}, got [${box.join(', ')}]`);
    }
    if (!Number.isInteger(label) || label < 0)
      throw new Error(`drawBoxes: ${name}[${index}].label: expected a class index from 0, got ${label}`);
  });
}

/** RGB pixels as a canvas of the same size. */
function toCanvas({ data, width, height }: PixelImage): Canvas {
  const canvas = createCanvas(width, height);
  const context = canvas.getContext('2d');
  const rgba = context.createImageData(width, height);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    rgba.data[to] = data[from];
    rgba.data[to + 1] = data[from + 1];
    rgba.data[to + 2] = data[from + 2];
    rgba.data[to + 3] = 255;
  }
  context.putImageData(rgba, 0, 0);
  return canvas;
}

/** [x1, y1, x2, y2] of a box in canvas pixels, moved inside the canvas so that its lines stay visible. */
function onCanvas(
  box: DrawnBox['box'],
  scale: number,
  canvas: { readonly width: number; readonly height: number },
  lineWidth: number,
): [number, number, number, number] {
  const inset = lineWidth / 2 + 1;
  const clamp = (value: number, size: number) =>
    Math.min(Math.max(value * scale, inset), Math.max(inset, size - inset));
  return [
    clamp(box[0], canvas.width),
    clamp(box[1], canvas.height),
    clamp(box[2], canvas.width),
    clamp(box[3], canvas.height),
  ];
}

/**
 * A rectangle on a darker edge, which separates it from a background of the same color.
 * @param label the class that gives the color; null draws a dashed white rectangle
 */
function drawFrame(
  context: SKRSContext2D,
  [x1, y1, x2, y2]: readonly [number, number, number, number],
  label: number | null,
  lineWidth: number,
): void {
  const dashed = label === null;
  context.lineJoin = 'round';
  context.lineCap = 'butt';
  context.setLineDash([]);
  context.strokeStyle = dashed ? 'rgba(10, 12, 16, 0.35)' : 'rgba(10, 12, 16, 0.55)';
  context.lineWidth = lineWidth + (dashed ? 1 : 2);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.setLineDash(dashed ? [Math.max(6, 4 * lineWidth), 4] : []);
  context.strokeStyle = dashed ? '#ffffff' : colorOf(label);
  context.lineWidth = lineWidth;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.setLineDash([]);
}
