/** Arranges several pictures on one sheet. */
import { type Canvas, createCanvas } from '@napi-rs/canvas';

/** Tiles pictures row by row, each centered in a cell of the largest width and height. `columns` is at least 1. */
export function contactSheet(
  images: readonly Canvas[],
  columns: number,
  options: { gap?: number; background?: string } = {},
): Canvas {
  if (images.length === 0) throw new Error('contactSheet: images: expected at least one, got none');
  if (!Number.isInteger(columns) || columns < 1)
    throw new Error(`contactSheet: columns: expected a positive integer, got ${columns}`);
  const gap = options.gap ?? 8;
  const used = Math.min(columns, images.length);
  const rows = Math.ceil(images.length / used);
  const cellWidth = Math.max(...images.map((image) => image.width));
  const cellHeight = Math.max(...images.map((image) => image.height));
  const sheet = createCanvas(used * (cellWidth + gap) + gap, rows * (cellHeight + gap) + gap);
  const context = sheet.getContext('2d');
  context.fillStyle = options.background ?? '#ffffff';
  context.fillRect(0, 0, sheet.width, sheet.height);
  images.forEach((image, index) => {
    const x = gap + (index % used) * (cellWidth + gap) + Math.floor((cellWidth - image.width) / 2);
    const y = gap + Math.floor(index / used) * (cellHeight + gap) + Math.floor((cellHeight - image.height) / 2);
    context.drawImage(image, x, y);
  });
  return sheet;
}
