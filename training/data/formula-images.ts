/**
 * Draws the scenes of formula images, and presents them as a data set. A path of the form "formula:..." names a scene.
 */
import sharp from 'sharp';
import type { ImageRecord, ObjectAnnotation, Size } from '../core/image-record.ts';
import type { Dataset } from './dataset.ts';
import { Warnings } from './warnings.ts';
import type { DataFormat } from './format.ts';
import { formulaClasses, OUTLINE_ANGLES } from './formula-classes.ts';
import { PATTERN_SIDE, patternOf } from './formula-patterns.ts';
import {
  formulaScene,
  type Camera,
  type FormulaObject,
  type FormulaScene,
  type Stroke,
  type Texture,
} from './formula-scenes.ts';
import type { SceneId } from './formula-scenes.ts';
import { decodeImage, ownBytes, type PixelImage } from './decode.ts';

const PREFIX = 'formula:';

/** The pixels of an image: drawn if the path names a scene, else decoded as by `decodeImage`. */
export async function readImage(file: string, stated: Size | null, white?: number): Promise<PixelImage> {
  return file.startsWith(PREFIX) ? readFormulaImage(file) : decodeImage(file, stated, white);
}

const pathOf = ({ seed, split, index, size }: SceneId): string => `${PREFIX}${seed}/${split}/${index}/${size}`;

/** Draws the image of a path. The same path gives the same pixels. */
export async function readFormulaImage(file: string): Promise<PixelImage> {
  const [seed, split, index, size] = file.slice(PREFIX.length).split('/').map(Number);
  const scene = formulaScene({ seed, split, index, size });
  const image = { data: drawScene(scene), width: size, height: size };
  return scene.camera.quality === null ? image : compressed(image, scene.camera.quality);
}

async function compressed({ data, width, height }: PixelImage, quality: number): Promise<PixelImage> {
  const file = await sharp(data, { raw: { width, height, channels: 3 } })
    .jpeg({ quality })
    .toBuffer();
  return {
    data: ownBytes(
      await sharp(file)
        .raw()
        .toBuffer({ resolveWithObject: true })
        .then((result) => result.data),
    ),
    width,
    height,
  };
}

/** An image that is drawn when it is read. Its objects are computed when they are first asked for. */
class FormulaRecord implements ImageRecord {
  readonly file: string;
  readonly name: string;
  readonly width: number;
  readonly height: number;

  constructor(private readonly scene: SceneId) {
    this.file = pathOf(scene);
    this.name = String(scene.index);
    this.width = scene.size;
    this.height = scene.size;
  }

  get id(): number {
    return this.scene.index + 1;
  }

  get objects(): ObjectAnnotation[] {
    return formulaScene(this.scene).objects.map(({ label, box: [x0, y0, x1, y1] }, i) => ({
      id: this.id * 100 + i,
      label,
      box: [x0, y0, x1, y1],
      area: (x1 - x0) * (y1 - y0),
      crowd: false,
    }));
  }
}

/** Images `first` .. `first + count - 1` of a split. */
export function formulaRecords({ seed, split, size }: Omit<SceneId, 'index'>, count: number): readonly ImageRecord[] {
  return Array.from({ length: count }, (_, index) => new FormulaRecord({ seed, split, index, size }));
}

/** Never recognized in a folder: formula images are in no folder. */
const FORMULA_FORMAT: DataFormat = {
  key: 'formula',
  name: 'formula images',
  files: 'no files',
  layouts: [],
  crowdNoun: 'crowds',
  splitRemedy: () => 'nothing: formula images have only the splits train and val',
  boxForm: 'corners',
  place: ({ name }, index) => ({ where: name, text: `object ${index + 1}` }),
  recognize: () => null,
};

export interface FormulaDatasetOptions {
  readonly seed: number;
  /** Side of the square images, pixels. */
  readonly size: number;
  /** Number of images. Training images are drawn when they are needed, so a large number costs little. */
  readonly trainImages: number;
  readonly valImages: number;
}

/** A data set of images that are drawn when they are read. */
export function formulaDataset({ seed, size, trainImages, valImages }: FormulaDatasetOptions): Dataset {
  const classNames = formulaClasses(seed).map(({ name }) => name);
  return {
    root: `${PREFIX}${seed}`,
    format: FORMULA_FORMAT,
    recognized: FORMULA_FORMAT.name,
    notes: [],
    classNames,
    categoryIds: classNames.map((_, label) => label + 1),
    splits: {
      train: formulaRecords({ seed, split: 0, size }, trainImages),
      val: formulaRecords({ seed, split: 1, size }, valImages),
    },
    annotated: {},
    readWarnings: new Warnings(),
    warnings: [],
    allWarnings: [],
  };
}

/** RGB, HWC, before compression. */
export function drawScene(scene: FormulaScene): Uint8Array {
  const { size, background, horizon, strokes, objects, camera } = scene;
  const pixels = new Float32Array(size * size * 3);
  fill(pixels, size, background, () => 1);
  if (horizon !== null) {
    const [nx, ny] = [Math.cos(horizon.angle), Math.sin(horizon.angle)];
    fill(pixels, size, horizon.texture, (x, y) =>
      (x - size / 2) * nx + (y - size / 2) * ny > horizon.distance ? 1 : 0,
    );
  }
  for (const stroke of strokes) drawStroke(pixels, size, stroke);
  for (const object of objects) drawObject(pixels, size, object);
  for (let pass = 0; pass < camera.blur; pass++) blur(pixels, size);
  return exposed(pixels, size, camera);
}

/** 256 colors, [256, 3], interpolated between the colors of a texture. */
function rampOf({ colors }: Texture): Float32Array {
  const ramp = new Float32Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (colors.length - 1);
    const low = Math.min(Math.floor(at), colors.length - 2);
    for (let c = 0; c < 3; c++) ramp[3 * i + c] = colors[low][c] + (colors[low + 1][c] - colors[low][c]) * (at - low);
  }
  return ramp;
}

/** The place in a ramp of each pixel of a texture, times three. */
function sampler({ pattern, offset, scale, angle }: Texture): (x: number, y: number) => number {
  const values = patternOf(pattern);
  const [a, b] = [scale * Math.cos(angle), scale * Math.sin(angle)];
  const mask = PATTERN_SIDE - 1;
  return (x, y) => {
    const u = (offset[0] + a * x - b * y) & mask;
    const v = (offset[1] + b * x + a * y) & mask;
    return 3 * values[v * PATTERN_SIDE + u];
  };
}

function fill(pixels: Float32Array, size: number, texture: Texture, coverAt: (x: number, y: number) => number): void {
  const ramp = rampOf(texture);
  const sample = sampler(texture);
  for (let y = 0, i = 0; y < size; y++) {
    for (let x = 0; x < size; x++, i += 3) {
      if (coverAt(x, y) === 0) continue;
      const color = sample(x, y);
      pixels[i] = ramp[color];
      pixels[i + 1] = ramp[color + 1];
      pixels[i + 2] = ramp[color + 2];
    }
  }
}

function drawStroke(pixels: Float32Array, size: number, { from, to, width, color, opacity }: Stroke): void {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = Math.max(1, Math.hypot(dx, dy));
  const reach = Math.ceil(width / 2 + 1);
  const [x0, x1] = [Math.min(from[0], to[0]) - reach, Math.max(from[0], to[0]) + reach];
  const [y0, y1] = [Math.min(from[1], to[1]) - reach, Math.max(from[1], to[1]) + reach];
  for (let y = Math.max(0, Math.floor(y0)); y < Math.min(size, y1); y++) {
    for (let x = Math.max(0, Math.floor(x0)); x < Math.min(size, x1); x++) {
      const along = Math.min(1, Math.max(0, ((x - from[0]) * dx + (y - from[1]) * dy) / (length * length)));
      const distance = Math.hypot(x - from[0] - along * dx, y - from[1] - along * dy);
      const cover = opacity * Math.min(1, Math.max(0, width / 2 + 0.5 - distance));
      if (cover === 0) continue;
      for (let c = 0, i = 3 * (y * size + x); c < 3; c++) pixels[i + c] += (color[c] - pixels[i + c]) * cover;
    }
  }
}

/** A part of an image, pixels. */
interface Window extends Size {
  readonly x: number;
  readonly y: number;
  /** How much of each pixel the object covers, 0 .. 1. */
  readonly cover: Float32Array;
  /** Distance from the center in units of the outline's radius there; 1 at the edge. */
  readonly depth: Float32Array;
}

function drawObject(pixels: Float32Array, size: number, object: FormulaObject): void {
  const window = coverOf(object, size);
  if (object.shadow !== null) drawShadow(pixels, size, window, object.shadow);
  const { texture, opacity, shade, rim, nucleus, bounds } = object;
  const ramp = rampOf(texture);
  const sample = sampler(texture);
  const [middleX, middleY] = [(bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2];
  const half = Math.max(bounds[2] - bounds[0], bounds[3] - bounds[1]) / 2;
  for (let row = 0, k = 0; row < window.height; row++) {
    const y = window.y + row;
    let i = 3 * (y * size + window.x);
    for (let column = 0; column < window.width; column++, k++, i += 3) {
      const cover = window.cover[k] * opacity;
      if (cover === 0) continue;
      const x = window.x + column;
      const depth = window.depth[k];
      const edge = depth > 0.7 ? Math.min(1, (depth - 0.7) / 0.3) : 0;
      const light = 1 + (shade[0] * (x - middleX) + shade[1] * (y - middleY)) / half + rim * edge;
      const color = sample(x, y);
      const inner = nucleus !== null && depth < nucleus.radius;
      for (let c = 0; c < 3; c++) {
        const value = (inner ? nucleus.color[c] : ramp[color + c]) * light;
        pixels[i + c] += (value - pixels[i + c]) * cover;
      }
    }
  }
}

function drawShadow(
  pixels: Float32Array,
  size: number,
  window: Window,
  { offset, strength }: NonNullable<FormulaObject['shadow']>,
): void {
  const [dx, dy] = [Math.round(offset[0]), Math.round(offset[1])];
  for (let row = 0, k = 0; row < window.height; row++) {
    const y = window.y + row + dy;
    for (let column = 0; column < window.width; column++, k++) {
      const x = window.x + column + dx;
      if (window.cover[k] === 0 || x < 0 || x >= size || y < 0 || y >= size) continue;
      const keep = 1 - strength * window.cover[k];
      for (let c = 0, i = 3 * (y * size + x); c < 3; c++) pixels[i + c] *= keep;
    }
  }
}

/** The window of an object in the image, with its cover. */
function coverOf({ bounds, outline, center, axes, softness }: FormulaObject, size: number): Window {
  const x = Math.max(0, Math.floor(bounds[0]) - 1);
  const y = Math.max(0, Math.floor(bounds[1]) - 1);
  const width = Math.min(size, Math.ceil(bounds[2]) + 1) - x;
  const height = Math.min(size, Math.ceil(bounds[3]) + 1) - y;
  const cover = new Float32Array(width * height);
  const depth = new Float32Array(width * height);
  const [a, b, c, d] = axes;
  if (outline.kind === 'points') {
    depth.fill(0.5);
    for (let p = 0; p < outline.points.length; p += 2) {
      const u = center[0] + a * outline.points[p] + b * outline.points[p + 1] - x;
      const v = center[1] + c * outline.points[p] + d * outline.points[p + 1] - y;
      const [column, row] = [Math.floor(u), Math.floor(v)];
      if (column >= 0 && column < width && row >= 0 && row < height)
        cover[row * width + column] = Math.min(1, cover[row * width + column] + 0.6);
    }
    return { x, y, width, height, cover, depth };
  }
  const determinant = a * d - b * c;
  const pixelsPerUnit = Math.sqrt(Math.abs(determinant));
  const turn = OUTLINE_ANGLES / (2 * Math.PI);
  const { radii } = outline;
  for (let row = 0, k = 0; row < height; row++) {
    for (let column = 0; column < width; column++, k++) {
      const [px, py] = [x + column + 0.5 - center[0], y + row + 0.5 - center[1]];
      const u = (d * px - b * py) / determinant;
      const v = (a * py - c * px) / determinant;
      const distance = Math.sqrt(u * u + v * v);
      const at = (Math.atan2(v, u) * turn + OUTLINE_ANGLES) % OUTLINE_ANGLES;
      const low = Math.floor(at);
      const first = radii[low];
      const radius = first + (radii[(low + 1) & (OUTLINE_ANGLES - 1)] - first) * (at - low);
      depth[k] = distance / radius;
      cover[k] = Math.min(1, Math.max(0, ((radius - distance) * pixelsPerUnit) / softness + 0.5));
    }
  }
  return { x, y, width, height, cover, depth };
}

/** A 3 x 3 blur in place, with weights 1/4, 1/2, 1/4 per axis. */
function blur(pixels: Float32Array, size: number): void {
  const pass = (step: number, jump: number): void => {
    for (let line = 0; line < size; line++) {
      for (let c = 0; c < 3; c++) {
        let i = line * jump + c;
        let before = pixels[i];
        for (let k = 0; k < size; k++, i += step) {
          const value = pixels[i];
          const after = k + 1 < size ? pixels[i + step] : value;
          pixels[i] = before / 4 + value / 2 + after / 4;
          before = value;
        }
      }
    }
  };
  pass(3, 3 * size);
  pass(3 * size, 3);
}

/** The bytes of an image after exposure, vignette and noise. */
function exposed(
  pixels: Float32Array,
  size: number,
  { gain, bias, vignette, noise, gray, noiseSeed }: Camera,
): Uint8Array {
  const bytes = new Uint8ClampedArray(pixels.length);
  let state = noiseSeed | 1;
  for (let y = 0, i = 0; y < size; y++) {
    for (let x = 0; x < size; x++, i += 3) {
      const [dx, dy] = [x / size - 0.5, y / size - 0.5];
      const factor = gain * (1 + 2 * vignette * (dx * dx + dy * dy));
      // A Xorshift generator. Its four bytes make three nearly normal numbers of deviation 1.
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      const [p, q, r, s] = [state & 255, (state >>> 8) & 255, (state >>> 16) & 255, state >>> 24];
      const scale = noise / 104;
      const red = pixels[i] * factor + bias + (p + q - 255) * scale;
      const green = pixels[i + 1] * factor + bias + (q + r - 255) * scale;
      const blue = pixels[i + 2] * factor + bias + (r + s - 255) * scale;
      if (gray) {
        const luma = 0.299 * red + 0.587 * green + 0.114 * blue;
        bytes[i] = bytes[i + 1] = bytes[i + 2] = luma;
      } else {
        bytes[i] = red;
        bytes[i + 1] = green;
        bytes[i + 2] = blue;
      }
    }
  }
  return new Uint8Array(bytes.buffer);
}
