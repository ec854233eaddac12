/** The first training images of a run as the model sees them, after augmentation, with their boxes, on one sheet. */
import type { Canvas } from '@napi-rs/canvas';
import type { LoadedBatch } from '../data/loader.ts';
import { contactSheet } from './contact-sheet.ts';
import { drawBoxes, type DrawnBox } from './draw-boxes.ts';
import { writePng } from './png.ts';

const COLUMNS = 4;
/** Images with a longer side are reduced to it, pixels. */
const MAX_SIDE = 640;

/**
 * Writes a sheet of training images with their boxes and class names.
 * @param path   the PNG file
 * @param count  images to draw at most; without an image, nothing is written
 */
export async function drawBatches(
  path: string,
  batches: readonly LoadedBatch[],
  classNames: readonly string[],
  count: number,
): Promise<void> {
  const samples = batches.flatMap(({ images, targets }) => images.map((image, i) => ({ image, ...targets[i] })));
  const canvases: Canvas[] = [];
  for (const { image, boxes, labels } of samples.slice(0, count)) {
    const drawn = Array.from(labels, (label, i): DrawnBox => {
      const [x0, y0, x1, y1] = boxes.subarray(4 * i, 4 * i + 4);
      return { box: [x0, y0, x1, y1], label, name: classNames[label] };
    });
    const longSide = Math.max(image.width, image.height);
    canvases.push(await drawBoxes(image, drawn, longSide > MAX_SIDE ? { scale: MAX_SIDE / longSide } : {}));
  }
  if (canvases.length > 0) writePng(path, contactSheet(canvases, COLUMNS));
}
