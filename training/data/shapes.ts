/**
 * The embedded data set: circles, squares, triangles and stars on textured backgrounds, one to five in an image.
 *
 * It is generated on first use, from a seed, as ordinary PNG files and COCO JSON, and then read like any other data set:
 * `annotations/instances_{train,val}.json`, `train/`, `val/`, and `shapes.json`, which says what made it.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import sharp from 'sharp';
import { Random } from '../../engine/core/random.ts';
import { InputError } from '../core/errors.ts';
import type { CocoAnnotation, CocoGroundTruth } from '../core/coco-types.ts';

export interface ShapesOptions {
  /** Number of training images; 2000 unless told. */
  trainImages?: number;
  /** Number of validation images; 100 unless told. */
  valImages?: number;
  /** Side of the square images in pixels, at least 64; 96 unless told. */
  imageSize?: number;
  /** 0 unless told. */
  seed?: number;
  /** Told once, before generating. */
  log?: (line: string) => void;
}

/** Raised whenever the same options would draw other images. */
const VERSION = 1;
const MARKER = 'shapes.json';
const CLASSES = ['circle', 'square', 'triangle', 'star'] as const;
type ShapeClass = (typeof CLASSES)[number];

/** Extent of the longer side of an object's box, pixels. */
const MIN_EXTENT = 16,
  MAX_EXTENT = 48;
/** How much of the smaller of two boxes the other may cover. */
const MAX_COVER = 0.2;
/** Samples a pixel and axis. */
const SUPERSAMPLING = 4;
/** Least distance of an object's colour from the background's, of the 255 * sqrt(3) there are. */
const MIN_CONTRAST = 110;

type Colour = [red: number, green: number, blue: number];
type Point = [x: number, y: number];

interface Shape {
  kind: ShapeClass;
  /** Corners, pixels; a circle is a polygon of many. */
  outline: Point[];
  box: [number, number, number, number];
  colour: Colour;
  /** Brightness of the object falls off along this direction. */
  shade: Point;
}

/**
 * Makes sure that `directory` holds the shapes data set of these options: generates it if it is not there or was made by other options
 * or another version of the generator. It appears whole or not at all. The same options give the same bytes.
 *
 * @returns the directory, absolute
 * @throws InputError if the directory holds something else
 */
export async function ensureShapesDataset(directory: string, options: ShapesOptions = {}): Promise<string> {
  const { trainImages = 2000, valImages = 100, imageSize = 96, seed = 0, log } = options;
  const limits = [
    ['trainImages', trainImages, 1],
    ['valImages', valImages, 1],
    ['imageSize', imageSize, 64],
    ['seed', seed, 0],
  ] as const;
  for (const [name, value, least] of limits) {
    if (Number.isSafeInteger(value) && value >= least) continue;
    throw new InputError(`shapes data set: ${name}: expected an integer of at least ${least}, got ${value}`);
  }
  const root = resolve(directory);
  const marker = `${JSON.stringify({ generator: 'shapes', version: VERSION, options: { trainImages, valImages, imageSize, seed } }, null, 2)}\n`;
  if (hasMarker(root, marker)) return root;
  if (existsSync(root) && !existsSync(join(root, MARKER)) && (await readdir(root)).length > 0) {
    throw new InputError(
      `${root}: expected an empty folder or an earlier shapes data set to generate the shapes data set in, got other files`,
    );
  }

  log?.(`generating the shapes data set (${trainImages} + ${valImages} images) in ${root}`);
  const partial = join(dirname(root), `.${basename(root)}-partial-${randomUUID()}`);
  try {
    await mkdir(join(partial, 'annotations'), { recursive: true });
    await writeSplit(partial, 'train', trainImages, imageSize, seed, 0);
    await writeSplit(partial, 'val', valImages, imageSize, seed, 1);
    await writeFile(join(partial, MARKER), marker);
    // Another process may have been faster; what it made is the same.
    if (hasMarker(root, marker)) return root;
    await rm(root, { recursive: true, force: true });
    try {
      await rename(partial, root);
    } catch (error) {
      if (!hasMarker(root, marker)) throw error;
    }
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return root;
}

function hasMarker(root: string, marker: string): boolean {
  const file = join(root, MARKER);
  return existsSync(file) && readFileSync(file, 'utf8') === marker;
}

async function writeSplit(
  root: string,
  split: string,
  count: number,
  size: number,
  seed: number,
  stream: number,
): Promise<void> {
  await mkdir(join(root, split));
  const truth: CocoGroundTruth = {
    images: [],
    annotations: [],
    categories: CLASSES.map((name, i) => ({ id: i + 1, name })),
  };
  const digits = String(count).length;
  const encoded: Promise<unknown>[] = [];
  for (let index = 0; index < count; index++) {
    const { pixels, shapes } = drawImage(size, new Random(seed, stream, index));
    const id = index + 1;
    const file_name = `${String(id).padStart(digits, '0')}.png`;
    truth.images.push({ id, file_name, width: size, height: size });
    for (const shape of shapes) truth.annotations.push(annotationOf(shape, truth.annotations.length + 1, id));
    encoded.push(
      sharp(pixels, { raw: { width: size, height: size, channels: 3 } })
        .png({ compressionLevel: 6 })
        .toFile(join(root, split, file_name)),
    );
    if (encoded.length === 32) await Promise.all(encoded.splice(0));
  }
  await Promise.all(encoded);
  await writeFile(join(root, 'annotations', `instances_${split}.json`), `${JSON.stringify(truth)}\n`);
}

function annotationOf({ kind, outline, box: [x0, y0, x1, y1] }: Shape, id: number, image_id: number): CocoAnnotation {
  const rounded = (value: number) => Math.round(value * 100) / 100;
  return {
    id,
    image_id,
    category_id: CLASSES.indexOf(kind) + 1,
    bbox: [rounded(x0), rounded(y0), rounded(x1 - x0), rounded(y1 - y0)],
    area: rounded(polygonArea(outline)),
    iscrowd: 0,
  };
}

function drawImage(size: number, random: Random): { pixels: Uint8Array; shapes: Shape[] } {
  const { pixels, colours } = drawBackground(size, random);
  const wanted = 1 + random.integer(5);
  const shapes: Shape[] = [];
  // Later ones find less room, and get smaller limits as they fail; the first always fits.
  for (let attempt = 0; shapes.length < wanted && attempt < 200; attempt++) {
    const largest = Math.max(MIN_EXTENT + 4, MAX_EXTENT - attempt / 4);
    const shape = randomShape(size, largest, colours, random);
    if (shapes.every((other) => coverOfSmaller(shape.box, other.box) <= MAX_COVER)) shapes.push(shape);
  }
  for (const shape of shapes) drawShape(pixels, size, shape);
  addGrain(pixels, random);
  return { pixels, shapes };
}

/** Two colours mixed by noise of several scales, some with stripes. */
function drawBackground(size: number, random: Random): { pixels: Uint8Array; colours: Colour[] } {
  // Muted, so that objects, which are not, stand out.
  const first = hsvColour(random.uniform(), 0.1 + 0.3 * random.uniform(), 0.25 + 0.55 * random.uniform());
  const second = first.map((value) => clampByte(value + 110 * (random.uniform() - 0.5))) as Colour;
  const noise = valueNoise(size, [24, 12, 6], random);
  const striped = random.uniform() < 0.4;
  const angle = Math.PI * random.uniform(),
    frequency = (2 * Math.PI) / (8 + 14 * random.uniform()),
    phase = 2 * Math.PI * random.uniform();
  const along: Point = [Math.cos(angle) * frequency, Math.sin(angle) * frequency];
  const pixels = new Uint8Array(size * size * 3);
  for (let y = 0, i = 0; y < size; y++) {
    for (let x = 0; x < size; x++, i++) {
      const stripe = striped ? 0.25 * Math.sin(along[0] * x + along[1] * y + phase) : 0;
      const mix = Math.min(1, Math.max(0, noise[i] + stripe));
      for (let c = 0; c < 3; c++) pixels[i * 3 + c] = Math.round(first[c] + (second[c] - first[c]) * mix);
    }
  }
  return { pixels, colours: [first, second] };
}

/** Random values on grids of the given spacings (pixels), interpolated smoothly and summed with weights 1, 1/2, 1/4, ...; about 0 .. 1. */
function valueNoise(size: number, spacings: readonly number[], random: Random): Float64Array {
  const sum = new Float64Array(size * size);
  let weight = 1,
    total = 0;
  for (const spacing of spacings) {
    const side = Math.ceil(size / spacing) + 2;
    const grid = random.uniformArray(side * side);
    const offset: Point = [random.uniform(), random.uniform()];
    const smooth = (t: number) => t * t * (3 - 2 * t);
    for (let y = 0, i = 0; y < size; y++) {
      const v = y / spacing + offset[1],
        row = Math.floor(v),
        fy = smooth(v - row);
      for (let x = 0; x < size; x++, i++) {
        const u = x / spacing + offset[0],
          column = Math.floor(u),
          fx = smooth(u - column);
        const at = row * side + column;
        const upper = grid[at] + (grid[at + 1] - grid[at]) * fx;
        const lower = grid[at + side] + (grid[at + side + 1] - grid[at + side]) * fx;
        sum[i] += weight * (upper + (lower - upper) * fy);
      }
    }
    total += weight;
    weight /= 2;
  }
  return sum.map((value) => value / total);
}

function randomShape(size: number, largest: number, background: readonly Colour[], random: Random): Shape {
  const kind = CLASSES[random.integer(CLASSES.length)];
  const extent = MIN_EXTENT + (largest - MIN_EXTENT) * random.uniform();
  const corners = unitOutline(kind, random);
  const [left, top, right, bottom] = boundsOf(corners);
  const scale = extent / Math.max(right - left, bottom - top);
  const [width, height] = [(right - left) * scale, (bottom - top) * scale];
  const x = 1 + (size - 2 - width) * random.uniform(),
    y = 1 + (size - 2 - height) * random.uniform();
  const outline = corners.map(([u, v]): Point => [x + (u - left) * scale, y + (v - top) * scale]);
  const shadeAngle = 2 * Math.PI * random.uniform();
  return {
    kind,
    outline,
    box: [x, y, x + width, y + height],
    colour: contrastingColour(background, random),
    shade: [Math.cos(shadeAngle) / extent, Math.sin(shadeAngle) / extent],
  };
}

/** Corners around the origin at radius 1, turned at random (a square by less than it takes to look like a diamond on its tip). */
function unitOutline(kind: ShapeClass, random: Random): Point[] {
  const ring = (count: number, start: number, radius: (i: number) => number) =>
    Array.from({ length: count }, (_, i): Point => {
      const angle = start + (2 * Math.PI * i) / count;
      return [radius(i) * Math.cos(angle), radius(i) * Math.sin(angle)];
    });
  const turn = random.uniform();
  switch (kind) {
    case 'circle':
      return ring(64, 0, () => 1);
    case 'square':
      return ring(4, Math.PI / 4 + ((turn - 0.5) * Math.PI) / 3, () => 1);
    case 'triangle':
      return ring(3, turn * 2 * Math.PI, () => 1);
    case 'star':
      return ring(10, turn * 2 * Math.PI, (i) => (i % 2 === 0 ? 1 : 0.42));
  }
}

function contrastingColour(background: readonly Colour[], random: Random): Colour {
  for (;;) {
    const colour = hsvColour(random.uniform(), 0.55 + 0.45 * random.uniform(), 0.35 + 0.65 * random.uniform());
    if (background.every((other) => Math.hypot(...colour.map((value, c) => value - other[c])) >= MIN_CONTRAST))
      return colour;
  }
}

/** Paints the shape over the pixels, its edge by the share of each pixel's samples that lie inside. */
function drawShape(pixels: Uint8Array, size: number, { outline, box: [x0, y0, x1, y1], colour, shade }: Shape): void {
  const [centreX, centreY] = [(x0 + x1) / 2, (y0 + y1) / 2];
  for (let y = Math.floor(y0); y < Math.min(size, Math.ceil(y1)); y++) {
    const samples = countSamples(outline, y, size);
    for (let x = Math.floor(x0); x < Math.min(size, Math.ceil(x1)); x++) {
      const coverage = samples[x] / (SUPERSAMPLING * SUPERSAMPLING);
      const light = 1 + 0.35 * ((x - centreX) * shade[0] + (y - centreY) * shade[1]);
      for (let c = 0; c < 3; c++) {
        const at = (y * size + x) * 3 + c;
        pixels[at] = clampByte(pixels[at] + (colour[c] * light - pixels[at]) * coverage);
      }
    }
  }
}

/** How many samples of each pixel of row `y` lie inside the outline, by the even-odd rule. */
function countSamples(outline: readonly Point[], y: number, size: number): Uint8Array {
  const counts = new Uint8Array(size);
  for (let row = 0; row < SUPERSAMPLING; row++) {
    const v = y + (row + 0.5) / SUPERSAMPLING;
    const crossings: number[] = [];
    for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
      const [ax, ay] = outline[i],
        [bx, by] = outline[j];
      if (ay > v !== by > v) crossings.push(ax + ((bx - ax) * (v - ay)) / (by - ay));
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const end = Math.ceil(crossings[i + 1] * SUPERSAMPLING - 0.5);
      for (let sample = Math.ceil(crossings[i] * SUPERSAMPLING - 0.5); sample < end; sample++)
        counts[Math.floor(sample / SUPERSAMPLING)]++;
    }
  }
  return counts;
}

/** Sensor-like noise of a few grey levels over everything. */
function addGrain(pixels: Uint8Array, random: Random): void {
  const strength = 12;
  for (let i = 0; i < pixels.length; i += 4) {
    let bits = random.uint32();
    for (let k = i; k < Math.min(i + 4, pixels.length); k++, bits >>>= 8)
      pixels[k] = clampByte(pixels[k] + ((bits & 0xff) / 255 - 0.5) * strength);
  }
}

function boundsOf(points: readonly Point[]): [number, number, number, number] {
  const xs = points.map(([x]) => x),
    ys = points.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

function polygonArea(points: readonly Point[]): number {
  return (
    Math.abs(
      points.reduce((sum, [x, y], i) => {
        const [nextX, nextY] = points[(i + 1) % points.length];
        return sum + x * nextY - nextX * y;
      }, 0),
    ) / 2
  );
}

function coverOfSmaller(a: Shape['box'], b: Shape['box']): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]),
    height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / Math.min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]));
}

/** Hue, saturation and value in 0 .. 1 to 0 .. 255. */
function hsvColour(hue: number, saturation: number, value: number): Colour {
  const channel = (offset: number) => {
    const k = (offset + hue * 6) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
}

function clampByte(value: number): number {
  return Math.min(255, Math.max(0, Math.round(value)));
}
