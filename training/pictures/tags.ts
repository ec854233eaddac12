/** Places and draws the tags of boxes. */
import type { SKRSContext2D } from '@napi-rs/canvas';
import { textColorOn } from './colors.ts';
import { BOLD_FONT, registerFonts } from './fonts.ts';

export interface Tag {
  text: string;
  color: string;
  /** Pixels, like the fields below. */
  fontSize: number;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Caption {
  /** An empty text gets no tag. */
  readonly text: string;
  readonly color: string;
  /** [x1, y1, x2, y2] of the box in canvas pixels. */
  readonly corners: readonly [number, number, number, number];
}

/**
 * Places a tag for each caption, in the order of the captions. A tag lies at a corner of its box, inside the picture,
 * where it covers the smallest part of earlier tags.
 */
export function placeTags(
  context: SKRSContext2D,
  captions: readonly Caption[],
  lineWidth: number,
  fontSize: number,
): Tag[] {
  registerFonts();
  const tags: Tag[] = [];
  for (const { text, color, corners } of captions) {
    if (text === '') continue;
    const fitted = fitText(context, text, fontSize);
    const place = bestPlace(tagPlaces(corners, lineWidth, fitted), fitted, context.canvas, tags);
    tags.push({ ...fitted, ...place, color });
  }
  return tags;
}

type FittedText = Pick<Tag, 'text' | 'fontSize' | 'width' | 'height'>;

/** Makes a text fit the picture. In a very small picture the letters become smaller first, then the text is cut. */
function fitText(context: SKRSContext2D, text: string, fontSize: number): FittedText {
  const { width: canvasWidth, height: canvasHeight } = context.canvas;
  context.font = `${fontSize}px "${BOLD_FONT}"`;
  const padding = Math.round(fontSize * 0.35);
  const room = canvasWidth - 2 * padding;
  const fitted = Math.max(
    Math.min(fontSize, 9),
    Math.min(fontSize, Math.floor((fontSize * room) / context.measureText(text).width)),
  );
  context.font = `${fitted}px "${BOLD_FONT}"`;
  const cut = cutText(context, text, room);
  return {
    text: cut,
    fontSize: fitted,
    width: Math.min(canvasWidth, Math.ceil(context.measureText(cut).width) + 2 * padding),
    height: Math.min(canvasHeight, Math.round(fitted * 1.45)),
  };
}

/** Cuts a text to at most `room` pixels in the current font and marks the cut with an ellipsis. */
function cutText(context: SKRSContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join('')}…`).width > room) letters.pop();
  return `${letters.join('')}…`;
}

type Position = readonly [x: number, y: number];

/** Positions of a tag at the corners of its box, the preferred position first. */
function tagPlaces(
  [x1, y1, x2, y2]: Caption['corners'],
  lineWidth: number,
  { width, height }: Pick<Tag, 'width' | 'height'>,
): Position[] {
  const edge = lineWidth / 2;
  const [left, right] = [x1 - edge, x2 + edge - width];
  const [above, top, bottom, below] = [y1 - edge - height, y1 - edge, y2 + edge - height, y2 + edge];
  const places: Position[] = [
    [left, above],
    [left, top],
    [left, below],
    [right, above],
    [right, below],
    [left, bottom],
    [right, top],
    [right, bottom],
  ];
  return places.map(([x, y]) => [Math.round(x), Math.round(y)]);
}

/** The place with the least cost after it is moved inside the picture. */
function bestPlace(
  places: readonly Position[],
  { width, height }: Pick<Tag, 'width' | 'height'>,
  canvas: { readonly width: number; readonly height: number },
  tags: readonly Tag[],
): { x: number; y: number } {
  let best = { x: 0, y: 0, cost: Infinity };
  for (const [cornerX, cornerY] of places) {
    const x = Math.min(Math.max(cornerX, 0), canvas.width - width);
    const y = Math.min(Math.max(cornerY, 0), canvas.height - height);
    const moved = Math.abs(x - cornerX) + Math.abs(y - cornerY);
    const covered = tags.reduce((sum, tag) => sum + overlap(tag, { x, y, width, height }), 0);
    // A horizontal move along the picture's edge is cheap. To leave the box or to cover another tag is expensive.
    const cost = covered * 4 + (y === cornerY ? moved * 0.5 : moved * 8);
    if (cost < best.cost) best = { x, y, cost };
    if (cost === 0) break;
  }
  return { x: best.x, y: best.y };
}

type Rectangle = Pick<Tag, 'x' | 'y' | 'width' | 'height'>;

/** Square pixels that two rectangles share. */
function overlap(a: Rectangle, b: Rectangle): number {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  return width > 0 && height > 0 ? width * height : 0;
}

export function drawTag(context: SKRSContext2D, { text, color, fontSize, x, y, width, height }: Tag): void {
  context.fillStyle = 'rgba(10, 12, 16, 0.45)';
  context.beginPath();
  context.roundRect(x - 1, y - 1, width + 2, height + 2, 4);
  context.fill();
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x, y, width, height, 3);
  context.fill();
  context.font = `${fontSize}px "${BOLD_FONT}"`;
  context.fillStyle = textColorOn(color);
  context.textAlign = 'center';
  context.textBaseline = 'alphabetic';
  // DejaVu's capitals are 0.73 em high.
  context.fillText(text, x + width / 2, y + (height + 0.73 * fontSize) / 2);
}
