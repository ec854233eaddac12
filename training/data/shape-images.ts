/** Draws the images of the embedded data set: shapes on textured backgrounds. */
import type { Random } from '../../engine/core/random.ts';

export const SHAPE_CLASSES = ['circle', 'square', 'triangle', 'star'] as const;
type ShapeClass = (typeof SHAPE_CLASSES)[number];

/** Bounds for the longer side of an object's box, pixels. */
const MIN_EXTENT = 16;
const MAX_EXTENT = 48;
/** Maximum share of the smaller of two boxes that the other box covers. */
const MAX_COVER = 0.2;
/** Samples per pixel and axis. */
const SUPERSAMPLING = 4;
/** Minimum distance between the colors of object and background in RGB; the largest possible is 255 * sqrt(3). */
const MIN_CONTRAST = 110;

type Color = [red: number, green: number, blue: number];
export type Point = [x: number, y: number];

export interface Shape {
  kind: ShapeClass;
  /** Corners in pixels. A circle is a polygon with 64 corners. */
  outline: Point[];
  box: [number, number, number, number];
  color: Color;
  /** Direction along which the object's brightness changes, per pixel. */
  shade: Point;
}

/** Draws one square image of `size` x `size` pixels. `pixels`: RGB, HWC. */
export function drawImage(size: number, random: Random): { pixels: Uint8Array; shapes: Shape[] } {
  const { pixels, colors } = drawBackground(size, random);
  const count = 1 + random.integer(5);
  const shapes: Shape[] = [];
  // The first shape always fits. Later shapes have less room, and smaller limits after each failure.
  for (let attempt = 0; shapes.length < count && attempt < 200; attempt++) {
    const largest = Math.max(MIN_EXTENT + 4, MAX_EXTENT - attempt / 4);
    const shape = randomShape(size, largest, colors, random);
    if (shapes.every((other) => coverOfSmaller(shape.box, other.box) <= MAX_COVER)) shapes.push(shape);
  }
  for (const shape of shapes) drawShape(pixels, size, shape);
  addGrain(pixels, random);
  return { pixels, shapes };
}

/** Two colors, mixed by noise of several scales. Some backgrounds have stripes. */
function drawBackground(size: number, random: Random): { pixels: Uint8Array; colors: Color[] } {
  // The colors are muted, so that the objects stand out.
  const first = hsvColor(random.uniform(), 0.1 + 0.3 * random.uniform(), 0.25 + 0.55 * random.uniform());
  const second = first.map((value) => clampByte(value + 110 * (random.uniform() - 0.5))) as Color;
  const noise = valueNoise(size, [24, 12, 6], random);
  const striped = random.uniform() < 0.4;
  const angle = Math.PI * random.uniform();
  const frequency = (2 * Math.PI) / (8 + 14 * random.uniform());
  const phase = 2 * Math.PI * random.uniform();
  const along: Point = [Math.cos(angle) * frequency, Math.sin(angle) * frequency];
  const pixels = new Uint8Array(size * size * 3);
  for (let y = 0, i = 0; y < size; y++) {
    for (let x = 0; x < size; x++, i++) {
      const stripe = striped ? 0.25 * Math.sin(along[0] * x + along[1] * y + phase) : 0;
      const mix = Math.min(1, Math.max(0, noise[i] + stripe));
      for (let c = 0; c < 3; c++) pixels[i * 3 + c] = Math.round(first[c] + (second[c] - first[c]) * mix);
    }
  }
  return { pixels, colors: [first, second] };
}

/**
 * Random values on grids of the given spacings (pixels), interpolated smoothly and summed with weights 1, 1/2, 1/4, ...
 * @returns [size, size] values of about 0 .. 1
 */
function valueNoise(size: number, spacings: readonly number[], random: Random): Float64Array {
  const sum = new Float64Array(size * size);
  let weight = 1;
  let total = 0;
  for (const spacing of spacings) {
    const side = Math.ceil(size / spacing) + 2;
    const grid = random.uniformArray(side * side);
    const offset: Point = [random.uniform(), random.uniform()];
    const smooth = (t: number) => t * t * (3 - 2 * t);
    for (let y = 0, i = 0; y < size; y++) {
      const v = y / spacing + offset[1];
      const row = Math.floor(v);
      const fy = smooth(v - row);
      for (let x = 0; x < size; x++, i++) {
        const u = x / spacing + offset[0];
        const column = Math.floor(u);
        const fx = smooth(u - column);
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

function randomShape(size: number, largest: number, background: readonly Color[], random: Random): Shape {
  const kind = SHAPE_CLASSES[random.integer(SHAPE_CLASSES.length)];
  const extent = MIN_EXTENT + (largest - MIN_EXTENT) * random.uniform();
  const corners = unitOutline(kind, random);
  const [left, top, right, bottom] = boundsOf(corners);
  const scale = extent / Math.max(right - left, bottom - top);
  const [width, height] = [(right - left) * scale, (bottom - top) * scale];
  const x = 1 + (size - 2 - width) * random.uniform();
  const y = 1 + (size - 2 - height) * random.uniform();
  const outline = corners.map(([u, v]): Point => [x + (u - left) * scale, y + (v - top) * scale]);
  const shadeAngle = 2 * Math.PI * random.uniform();
  return {
    kind,
    outline,
    box: [x, y, x + width, y + height],
    color: contrastingColor(background, random),
    shade: [Math.cos(shadeAngle) / extent, Math.sin(shadeAngle) / extent],
  };
}

/**
 * Corners around the origin at radius 1, turned at random.
 * A square turns by at most 30 degrees, so that it does not stand on a corner.
 */
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

function contrastingColor(background: readonly Color[], random: Random): Color {
  for (;;) {
    const color = hsvColor(random.uniform(), 0.55 + 0.45 * random.uniform(), 0.35 + 0.65 * random.uniform());
    if (background.every((other) => Math.hypot(...color.map((value, c) => value - other[c])) >= MIN_CONTRAST))
      return color;
  }
}

/** Paints the shape over the pixels. Pixels at the edge are mixed by the share of their samples inside the shape. */
function drawShape(pixels: Uint8Array, size: number, { outline, box: [x0, y0, x1, y1], color, shade }: Shape): void {
  const [centerX, centerY] = [(x0 + x1) / 2, (y0 + y1) / 2];
  for (let y = Math.floor(y0); y < Math.min(size, Math.ceil(y1)); y++) {
    const samples = countSamples(outline, y, size);
    for (let x = Math.floor(x0); x < Math.min(size, Math.ceil(x1)); x++) {
      const coverage = samples[x] / (SUPERSAMPLING * SUPERSAMPLING);
      const light = 1 + 0.35 * ((x - centerX) * shade[0] + (y - centerY) * shade[1]);
      for (let c = 0; c < 3; c++) {
        const at = (y * size + x) * 3 + c;
        pixels[at] = clampByte(pixels[at] + (color[c] * light - pixels[at]) * coverage);
      }
    }
  }
}

/** The number of samples inside the outline for each pixel of row `y`, by the even-odd rule. */
function countSamples(outline: readonly Point[], y: number, size: number): Uint8Array {
  const counts = new Uint8Array(size);
  for (let row = 0; row < SUPERSAMPLING; row++) {
    const v = y + (row + 0.5) / SUPERSAMPLING;
    const crossings: number[] = [];
    for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
      const [ax, ay] = outline[i];
      const [bx, by] = outline[j];
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

/** Adds noise of a few gray levels to all pixels, like that of a sensor. */
function addGrain(pixels: Uint8Array, random: Random): void {
  const strength = 12;
  for (let i = 0; i < pixels.length; i += 4) {
    let bits = random.uint32();
    for (let k = i; k < Math.min(i + 4, pixels.length); k++, bits >>>= 8)
      pixels[k] = clampByte(pixels[k] + ((bits & 0xff) / 255 - 0.5) * strength);
  }
}

/** x0, y0, x1, y1 */
function boundsOf(points: readonly Point[]): [number, number, number, number] {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** The share of the smaller box that the other box covers. */
function coverOfSmaller(a: Shape['box'], b: Shape['box']): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  return (width * height) / Math.min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]));
}

/** RGB in 0 .. 255 from hue, saturation and value in 0 .. 1. */
function hsvColor(hue: number, saturation: number, value: number): Color {
  const channel = (offset: number) => {
    const k = (offset + hue * 6) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
}

function clampByte(value: number): number {
  return Math.min(255, Math.max(0, Math.round(value)));
}
