/**
 * Pictures of detections: boxes with names and scores drawn on an image, several such pictures on one sheet, PNG files.
 * Needs no fonts on the machine: text is set in DejaVu Sans Bold from the npm package dejavu-fonts-ttf.
 * Boxes are [x1, y1, x2, y2] in pixels of the image given; small images are enlarged first so that tags can be read.
 */
import { writeFileSync } from 'node:fs';
import { createCanvas, Image, type Canvas, type SKRSContext2D } from '@napi-rs/canvas';
import { decodeImage, type PixelImage } from '../data/images.ts';
import { BOLD_FONT, registerFonts } from './fonts.ts';

export type { Canvas, SKRSContext2D } from '@napi-rs/canvas';

export interface DrawnBox {
  /** [x1, y1, x2, y2], pixels of the image; parts outside the picture are cut off. */
  box: readonly [number, number, number, number];
  /** 0-based class index: decides the colour. */
  label: number;
  /** Text of the tag; an empty name and no score: no tag. */
  name: string;
  /** Shown behind the name with two decimals. */
  score?: number;
}

export interface DrawOptions {
  /** Drawn over the boxes as thin dashed white frames without tags, so that both can be seen where they agree. */
  groundTruth?: readonly DrawnBox[];
  /** Enlargement of the image. Default: the whole number that brings the longer side to about 480 pixels or more, at most 8. */
  scale?: number;
  /** Draws on the image before the boxes do; `scale` pixels of the picture for each of the image. */
  underlay?: (context: SKRSContext2D, scale: number) => void;
}

/** Where enlarging stops by default: from here on tags are legible beside the objects. */
const LEGIBLE_SIDE = 480;
const MAX_ENLARGEMENT = 8;
const DARK = '#000000';
const LIGHT = '#ffffff';

/** Told apart on photographs and from each other, also with the common colour blindnesses for the first eight. */
const PALETTE = [
  '#ff4d4d',
  '#2f9bff',
  '#ffc21a',
  '#1fc98b',
  '#c46bff',
  '#ff8a1f',
  '#23d3ee',
  '#f25fb0',
  '#9bd32a',
  '#6f7dff',
  '#c98a5a',
  '#00a39b',
];

/** The colour of a class as #rrggbb: a fixed palette, then hues by the golden angle, in which neighbours never look alike. */
export function colorOf(label: number): string {
  if (label < PALETTE.length) return PALETTE[label];
  const hue = (label * 137.508) % 360;
  const lightness = [0.62, 0.5, 0.72][label % 3];
  const channel = (offset: number) => {
    const k = (offset + hue / 30) % 12;
    const value = lightness - 0.8 * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value)
      .toString(16)
      .padStart(2, '0');
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

/** Black or white, whichever stands out more from `background` (#rrggbb): by WCAG's contrast ratio never below 4.5. */
export function textColorOn(background: string): string {
  const luminance = relativeLuminance(background);
  const darkLuminance = relativeLuminance(DARK);
  return (luminance + 0.05) / (darkLuminance + 0.05) > 1.05 / (luminance + 0.05) ? DARK : LIGHT;
}

/**
 * Draws boxes with tags (name and score) on an image: a file, decoded as for training and prediction (upright by its EXIF orientation), or its pixels.
 * Boxes of higher score are drawn on top, and their tags get the better places. Throws InputError if the file cannot be decoded.
 */
export async function drawBoxes(
  image: string | PixelImage,
  boxes: readonly DrawnBox[],
  options: DrawOptions = {},
): Promise<Canvas> {
  const groundTruth = options.groundTruth ?? [];
  check(boxes, 'boxes');
  check(groundTruth, 'groundTruth');
  const raw = typeof image === 'string' ? await decodeImage(image) : image;
  if (raw.data.length !== raw.width * raw.height * 3) {
    throw new Error(
      `drawBoxes: image.data must hold height * width * 3 = ${raw.height * raw.width * 3} bytes, got ${raw.data.length}`,
    );
  }
  const scale =
    options.scale ?? Math.min(MAX_ENLARGEMENT, Math.max(1, Math.ceil(LEGIBLE_SIDE / Math.max(raw.width, raw.height))));
  if (!(scale > 0 && Number.isFinite(scale)))
    throw new Error(`drawBoxes: scale must be a positive number, got ${scale}`);

  const canvas = createCanvas(Math.max(1, Math.round(raw.width * scale)), Math.max(1, Math.round(raw.height * scale)));
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = 'high';
  context.drawImage(pixels(raw), 0, 0, canvas.width, canvas.height);

  options.underlay?.(context, scale);

  const longSide = Math.max(canvas.width, canvas.height);
  const lineWidth = Math.max(2, Math.round(longSide / 240));
  const byScore = [...boxes].sort((a, b) => (a.score ?? 1) - (b.score ?? 1));
  for (const box of byScore) frame(context, box, scale, lineWidth, false);
  for (const box of groundTruth) frame(context, box, scale, Math.max(1.25, lineWidth / 3), true);
  // Places are chosen from the highest score down, tags drawn from the lowest up.
  const tags = placeTags(
    context,
    byScore.toReversed(),
    scale,
    lineWidth,
    Math.min(28, Math.max(13, Math.round(longSide / 44))),
  );
  for (const tag of tags.toReversed()) drawTag(context, tag);
  return canvas;
}

/** Tiles pictures into one, row by row, each centred in its cell of the largest width and height. `columns` at least 1. */
export function contactSheet(
  images: readonly Canvas[],
  columns: number,
  options: { gap?: number; background?: string } = {},
): Canvas {
  if (images.length === 0) throw new Error('contactSheet: images must not be empty');
  if (!Number.isInteger(columns) || columns < 1)
    throw new Error(`contactSheet: columns must be a positive integer, got ${columns}`);
  const gap = options.gap ?? 8;
  const used = Math.min(columns, images.length);
  const rows = Math.ceil(images.length / used);
  const cellWidth = Math.max(...images.map((image) => image.width));
  const cellHeight = Math.max(...images.map((image) => image.height));
  const sheet = createCanvas(used * (cellWidth + gap) + gap, rows * (cellHeight + gap) + gap);
  const context = sheet.getContext('2d');
  context.fillStyle = options.background ?? LIGHT;
  context.fillRect(0, 0, sheet.width, sheet.height);
  images.forEach((image, index) => {
    const x = gap + (index % used) * (cellWidth + gap) + Math.floor((cellWidth - image.width) / 2);
    const y = gap + Math.floor(index / used) * (cellHeight + gap) + Math.floor((cellHeight - image.height) / 2);
    context.drawImage(image, x, y);
  });
  return sheet;
}

/** Writes a picture as a PNG file. */
export function writePng(path: string, canvas: Canvas): void {
  writeFileSync(path, canvas.toBuffer('image/png'));
}

/** Renders SVG text; `scale` pixels for each of its units. Text is set in DejaVu Sans, whatever fonts the machine has, if the SVG names that family. */
export async function rasterizeSvg(svg: string, scale = 2): Promise<Canvas> {
  registerFonts();
  const image = new Image();
  image.src = Buffer.from(svg);
  await image.decode();
  const canvas = createCanvas(Math.round(image.width * scale), Math.round(image.height * scale));
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  context.drawImage(image, 0, 0);
  return canvas;
}

function check(boxes: readonly DrawnBox[], name: string): void {
  boxes.forEach(({ box, label }, index) => {
    if (!box.every(Number.isFinite) || box[2] < box[0] || box[3] < box[1]) {
      throw new Error(
        `drawBoxes: ${name}[${index}].box must be [x1, y1, x2, y2] with x1 <= x2 and y1 <= y2, got [${box.join(', ')}]`,
      );
    }
    if (!Number.isInteger(label) || label < 0)
      throw new Error(`drawBoxes: ${name}[${index}].label must be a class index from 0, got ${label}`);
  });
}

function pixels({ data, width, height }: PixelImage): Canvas {
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

function relativeLuminance(color: string): number {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const value = Number.parseInt(color.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** [x1, y1, x2, y2] of a box in canvas pixels, pulled inside by `inset` so that its lines stay visible at the border. */
function onCanvas(
  { box }: DrawnBox,
  scale: number,
  canvas: { width: number; height: number },
  inset: number,
): [number, number, number, number] {
  const clamp = (value: number, most: number) =>
    Math.min(Math.max(value * scale, inset), Math.max(inset, most - inset));
  return [
    clamp(box[0], canvas.width),
    clamp(box[1], canvas.height),
    clamp(box[2], canvas.width),
    clamp(box[3], canvas.height),
  ];
}

/** A rectangle in its class's colour on a darker edge, which sets it off from backgrounds of the same colour. */
function frame(context: SKRSContext2D, box: DrawnBox, scale: number, lineWidth: number, dashed: boolean): void {
  const [x1, y1, x2, y2] = onCanvas(box, scale, context.canvas, lineWidth / 2 + 1);
  context.lineJoin = 'round';
  context.lineCap = 'butt';
  context.setLineDash([]);
  context.strokeStyle = dashed ? 'rgba(10, 12, 16, 0.35)' : 'rgba(10, 12, 16, 0.55)';
  context.lineWidth = lineWidth + (dashed ? 1 : 2);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.setLineDash(dashed ? [Math.max(6, 4 * lineWidth), 4] : []);
  context.strokeStyle = dashed ? LIGHT : colorOf(box.label);
  context.lineWidth = lineWidth;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.setLineDash([]);
}

interface Tag {
  text: string;
  color: string;
  fontSize: number;
  x: number;
  y: number;
  width: number;
  height: number;
}

/** Finds each tag a place inside the picture: at a corner of its box, where it covers as little as possible of the tags before it. */
function placeTags(
  context: SKRSContext2D,
  boxes: readonly DrawnBox[],
  scale: number,
  lineWidth: number,
  fontSize: number,
): Tag[] {
  registerFonts();
  const { width: canvasWidth, height: canvasHeight } = context.canvas;
  const tags: Tag[] = [];
  for (const box of boxes) {
    const caption = [box.name, box.score === undefined ? '' : box.score.toFixed(2)]
      .filter((part) => part !== '')
      .join(' ');
    if (caption === '') continue;
    // In a very small picture the letters shrink before the text is cut.
    context.font = `${fontSize}px "${BOLD_FONT}"`;
    const padding = Math.round(fontSize * 0.35);
    const room = canvasWidth - 2 * padding;
    const fitted = Math.max(
      Math.min(fontSize, 9),
      Math.min(fontSize, Math.floor((fontSize * room) / context.measureText(caption).width)),
    );
    context.font = `${fitted}px "${BOLD_FONT}"`;
    const text = shortened(context, caption, room);
    const width = Math.min(canvasWidth, Math.ceil(context.measureText(text).width) + 2 * padding);
    const height = Math.min(canvasHeight, Math.round(fitted * 1.45));

    const [x1, y1, x2, y2] = onCanvas(box, scale, context.canvas, lineWidth / 2 + 1);
    const edge = lineWidth / 2;
    const [left, right] = [x1 - edge, x2 + edge - width];
    const [above, top, bottom, below] = [y1 - edge - height, y1 - edge, y2 + edge - height, y2 + edge];
    const corners = [
      [left, above],
      [left, top],
      [left, below],
      [right, above],
      [right, below],
      [left, bottom],
      [right, top],
      [right, bottom],
    ];
    let best: { x: number; y: number; cost: number } | null = null;
    for (const [cornerX, cornerY] of corners.map((corner) => corner.map(Math.round))) {
      const x = Math.min(Math.max(cornerX, 0), canvasWidth - width);
      const y = Math.min(Math.max(cornerY, 0), canvasHeight - height);
      const moved = Math.abs(x - cornerX) + Math.abs(y - cornerY);
      const covered = tags.reduce((sum, tag) => sum + overlap(tag, { x, y, width, height }), 0);
      // Sliding along the picture's edge is cheap; leaving one's box, or covering another tag, is not.
      const cost = covered * 4 + (y === cornerY ? moved * 0.5 : moved * 8);
      if (best === null || cost < best.cost) best = { x, y, cost };
      if (cost === 0) break;
    }
    if (best) tags.push({ text, color: colorOf(box.label), fontSize: fitted, x: best.x, y: best.y, width, height });
  }
  return tags;
}

/** Square pixels that two tags share. */
function overlap(a: Tag, b: { x: number; y: number; width: number; height: number }): number {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  return width > 0 && height > 0 ? width * height : 0;
}

function shortened(context: SKRSContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join('')}…`).width > room) letters.pop();
  return `${letters.join('')}…`;
}

function drawTag(context: SKRSContext2D, { text, color, fontSize, x, y, width, height }: Tag): void {
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
