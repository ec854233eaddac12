/**
 * Scenes of the formula images: which objects are where, and how they and their background look. A scene depends only
 * on (seed, split, index). It gives the boxes without drawing a pixel; `formula-images.ts` draws it.
 */
import { Random } from '../../engine/core/random.ts';
import type { Box } from '../core/image-record.ts';
import {
  cosineAt,
  formulaClasses,
  OUTLINE_ANGLES,
  sineAt,
  type Appearance,
  type FormulaClass,
  type Outline,
} from './formula-classes.ts';

export type Color = readonly [red: number, green: number, blue: number];

/** A pattern from the bank of patterns, colored by a ramp. */
export interface Texture {
  /** Any integer; the bank is used modulo its length. */
  readonly pattern: number;
  /** Offset in the pattern and pattern pixels per image pixel, rotated by `angle`. */
  readonly offset: readonly [number, number];
  readonly scale: number;
  readonly angle: number;
  /** Colors at equal distances of the pattern's values. */
  readonly colors: readonly Color[];
}

export interface FormulaObject {
  readonly label: number;
  /** Pixels, clipped to the image. */
  readonly box: Box;
  /** Pixels, not clipped. */
  readonly bounds: Box;
  readonly outline: Outline;
  readonly center: readonly [number, number];
  /** Pixels per unit of the outline's frame: x = a u + b v, y = c u + d v. */
  readonly axes: readonly [a: number, b: number, c: number, d: number];
  readonly texture: Texture;
  /** 0 .. 1. */
  readonly opacity: number;
  /** Width of the soft edge, pixels. */
  readonly softness: number;
  /** Change of brightness along a direction, from one side to the other. */
  readonly shade: readonly [number, number];
  /** Brightness added at the edge; negative: a dark rim. */
  readonly rim: number;
  /** An inner region of another color; null without one. */
  readonly nucleus: { readonly radius: number; readonly color: Color } | null;
  /** Offset and strength of the shadow; null without one. */
  readonly shadow: { readonly offset: readonly [number, number]; readonly strength: number } | null;
}

export interface Stroke {
  readonly from: readonly [number, number];
  readonly to: readonly [number, number];
  readonly width: number;
  readonly color: Color;
  readonly opacity: number;
}

/** What the camera does to the finished image. */
export interface Camera {
  readonly gain: number;
  readonly bias: number;
  /** Brightness at the edges; 0: no change. */
  readonly vignette: number;
  /** Passes of a 3 x 3 blur. */
  readonly blur: number;
  /** Standard deviation of noise, in 0 .. 255. */
  readonly noise: number;
  readonly gray: boolean;
  /** JPEG quality; null: no compression. */
  readonly quality: number | null;
  readonly noiseSeed: number;
}

export interface FormulaScene {
  /** Side of the square image, pixels. */
  readonly size: number;
  readonly background: Texture;
  /** A second texture on one side of a line; null without one. */
  readonly horizon: { readonly texture: Texture; readonly angle: number; readonly distance: number } | null;
  readonly strokes: readonly Stroke[];
  readonly objects: readonly FormulaObject[];
  readonly camera: Camera;
}

export interface SceneId {
  readonly seed: number;
  /** 0: training, 1: validation. */
  readonly split: number;
  readonly index: number;
  /** Side of the square image, pixels. */
  readonly size: number;
}

/** Minimum share of an object's box that lies in the image. */
const MIN_INSIDE = 0.5;
/** Maximum share of the smaller of two boxes that the other box covers. */
const MAX_COVER = 0.45;
/** Maximum objects of an image. */
export const MAX_FORMULA_OBJECTS = 24;

const between = (random: Random, low: number, high: number): number => low + (high - low) * random.uniform();
const logBetween = (random: Random, low: number, high: number): number =>
  Math.exp(between(random, Math.log(low), Math.log(high)));
const pick = <T>(random: Random, items: readonly T[]): T => items[random.integer(items.length)];

const known = new Map<number, readonly FormulaClass[]>();

function classesOf(seed: number): readonly FormulaClass[] {
  const classes = known.get(seed) ?? formulaClasses(seed);
  known.set(seed, classes);
  return classes;
}

/** The scene of an index. The same id gives the same scene. */
export function formulaScene({ seed, split, index, size }: SceneId): FormulaScene {
  const random = new Random(seed, split, index);
  const tone = between(random, 0.1, 0.95);
  const background = backgroundTexture(random, tone);
  const horizon =
    random.uniform() < 0.2
      ? {
          texture: backgroundTexture(random, between(random, 0.1, 0.95)),
          angle: between(random, 0, 2 * Math.PI),
          distance: between(random, -0.3, 0.3) * size,
        }
      : null;
  const strokes = Array.from({ length: random.uniform() < 0.5 ? 0 : 1 + random.integer(8) }, () =>
    randomStroke(random, size),
  );
  const objects = placeObjects(classesOf(seed), random, size, tone);
  return { size, background, horizon, strokes, objects, camera: randomCamera(random) };
}

/** How many objects, of which classes and sizes. Sizes are shares of the image's side. */
function randomLayout(random: Random): { count: number; classes: number; low: number; high: number } {
  const kind = random.uniform();
  // One or two large objects; many objects of one or two classes with similar sizes; a mixture.
  if (kind < 0.25) return { count: 1 + random.integer(2), classes: 2, low: 0.35, high: 0.98 };
  if (kind < 0.5) {
    const low = logBetween(random, 0.1, 0.28);
    return { count: 5 + random.integer(MAX_FORMULA_OBJECTS - 4), classes: 1 + random.integer(3), low, high: low * 1.5 };
  }
  return { count: 1 + random.integer(8), classes: 8, low: 0.1, high: 0.7 };
}

function placeObjects(
  classes: readonly FormulaClass[],
  random: Random,
  size: number,
  tone: number,
): readonly FormulaObject[] {
  const { count, classes: variety, low, high } = randomLayout(random);
  const labels = Array.from({ length: variety }, () => random.integer(classes.length));
  const lookalike = random.uniform();
  const opacity = random.uniform() < 0.25 ? between(random, 0.45, 0.9) : 1;
  const softness = between(random, 0.5, 2);
  const objects: FormulaObject[] = [];
  for (let attempt = 0; objects.length < count && attempt < 4 * count + 8; attempt++) {
    const label = pick(random, labels);
    const extent = size * logBetween(random, low, high);
    const object = randomObject({
      random,
      label,
      kind: classes[label],
      extent,
      size,
      tone,
      lookalike,
      opacity,
      softness,
    });
    if (object !== null && objects.every((other) => coverOfSmaller(object.bounds, other.bounds) <= MAX_COVER))
      objects.push(object);
  }
  return objects;
}

interface ObjectOptions {
  readonly random: Random;
  readonly label: number;
  readonly kind: FormulaClass;
  /** Longer side of the bounds, pixels. */
  readonly extent: number;
  readonly size: number;
  readonly tone: number;
  /** 0 .. 1: below 0.95, objects have the colors of their class. */
  readonly lookalike: number;
  readonly opacity: number;
  readonly softness: number;
}

/** An object at a random place; null if too little of it lies in the image. */
function randomObject(options: ObjectOptions): FormulaObject | null {
  const { random, label, kind, extent, size, tone, lookalike, opacity, softness } = options;
  const outline = kind.outline(random);
  const turn = random.uniform() < 0.3 ? between(random, -0.3, 0.3) : between(random, 0, 2 * Math.PI);
  const aspect = kind.aspect * between(random, 0.85, 1.15);
  const [sin, cos] = [Math.sin(turn), Math.cos(turn)];
  const unit = [cos, -sin * aspect, sin, cos * aspect] as const;
  const [u0, v0, u1, v1] = boundsOf(outline, unit);
  const scale = extent / Math.max(u1 - u0, v1 - v0);
  const axes = [unit[0] * scale, unit[1] * scale, unit[2] * scale, unit[3] * scale] as const;
  const [width, height] = [(u1 - u0) * scale, (v1 - v0) * scale];
  if (Math.min(width, height) < 4) return null;
  const free = random.uniform() < 0.75 ? 0 : 0.4;
  const x = between(random, -free * width, size - width + free * width);
  const y = between(random, -free * height, size - height + free * height);
  const bounds: Box = [x, y, x + width, y + height];
  const box: Box = [Math.max(0, x), Math.max(0, y), Math.min(size, x + width), Math.min(size, y + height)];
  const inside = (Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1])) / (width * height);
  if (inside < MIN_INSIDE) return null;
  const light = between(random, 0, 2 * Math.PI);
  const shade = random.uniform() < 0.6 ? between(random, 0, 0.5) : 0;
  return {
    label,
    box,
    bounds,
    outline,
    center: [x - u0 * scale, y - v0 * scale],
    axes,
    texture: objectTexture(random, lookalike < 0.95 ? kind.appearance : null, tone),
    opacity,
    softness,
    shade: [shade * Math.cos(light), shade * Math.sin(light)],
    rim: random.uniform() < 0.4 ? between(random, -0.6, 0.4) : 0,
    nucleus:
      random.uniform() < 0.2
        ? { radius: between(random, 0.25, 0.6), color: hsv(random.uniform(), random.uniform(), random.uniform()) }
        : null,
    shadow:
      random.uniform() < 0.25
        ? { offset: [between(random, -6, 6), between(random, -6, 6)], strength: between(random, 0.1, 0.6) }
        : null,
  };
}

/** Bounds of an outline after a linear map. */
function boundsOf(outline: Outline, [a, b, c, d]: readonly [number, number, number, number]): Box {
  const bounds: Box = [Infinity, Infinity, -Infinity, -Infinity];
  const count = outline.kind === 'points' ? outline.points.length / 2 : OUTLINE_ANGLES;
  for (let i = 0; i < count; i++) {
    const u = outline.kind === 'points' ? outline.points[2 * i] : outline.radii[i] * cosineAt(i);
    const v = outline.kind === 'points' ? outline.points[2 * i + 1] : outline.radii[i] * sineAt(i);
    const x = a * u + b * v;
    const y = c * u + d * v;
    if (x < bounds[0]) bounds[0] = x;
    if (y < bounds[1]) bounds[1] = y;
    if (x > bounds[2]) bounds[2] = x;
    if (y > bounds[3]) bounds[3] = y;
  }
  return bounds;
}

function coverOfSmaller(a: Box, b: Box): number {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = ([x0, y0, x1, y1]: Box): number => (x1 - x0) * (y1 - y0);
  return (width * height) / Math.min(area(a), area(b));
}

/** A color by hue, saturation and brightness, each 0 .. 1; channels 0 .. 255. */
export function hsv(hue: number, saturation: number, brightness: number): Color {
  const channel = (n: number): number => {
    const k = (n + 6 * hue) % 6;
    return 255 * brightness * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
}

const clamp01 = (value: number): number => Math.min(1, Math.max(0, value));

function placedTexture(random: Random, pattern: number, colors: readonly Color[]): Texture {
  return {
    pattern,
    offset: [random.integer(4096), random.integer(4096)],
    scale: logBetween(random, 0.6, 3),
    angle: between(random, 0, 2 * Math.PI),
    colors,
  };
}

function backgroundTexture(random: Random, tone: number): Texture {
  const hue = random.uniform();
  const saturation = random.uniform() ** 2;
  // A quarter of the backgrounds is nearly plain, as under a microscope or in a studio.
  const contrast = random.uniform() < 0.25 ? between(random, 0, 0.08) : between(random, 0.05, 0.5);
  const spread = random.uniform() < 0.7 ? 0.08 : 0.5;
  const colors = Array.from({ length: 2 + random.integer(3) }, () =>
    hsv(
      (hue + spread * random.uniform()) % 1,
      clamp01(saturation + between(random, -0.2, 0.2)),
      clamp01(tone + contrast * between(random, -1, 1)),
    ),
  );
  return placedTexture(random, random.uint32(), colors);
}

/** Colors of the class, or any colors. Some objects differ little from the background's brightness. */
function objectTexture(random: Random, appearance: Appearance | null, tone: number): Texture {
  const hue = appearance === null ? random.uniform() : appearance.hue + between(random, -0.05, 0.05) + 1;
  const saturation = appearance === null ? random.uniform() : appearance.saturation * between(random, 0.8, 1.2);
  let brightness = appearance === null ? random.uniform() : appearance.brightness * between(random, 0.85, 1.15);
  // At least a small difference from the background, so that every object can be seen.
  if (Math.abs(brightness - tone) < 0.15) brightness = tone + (tone > 0.5 ? -1 : 1) * between(random, 0.15, 0.35);
  const contrast = random.uniform() < 0.5 ? 0.06 : between(random, 0.06, 0.3);
  const colors = Array.from({ length: 2 + random.integer(2) }, () =>
    hsv(
      (hue + between(random, 0, 0.08)) % 1,
      clamp01(saturation + between(random, -0.15, 0.15)),
      clamp01(brightness + contrast * between(random, -1, 1)),
    ),
  );
  return placedTexture(random, appearance === null ? random.uint32() : appearance.pattern, colors);
}

function randomStroke(random: Random, size: number): Stroke {
  const at = (): readonly [number, number] => [size * random.uniform(), size * random.uniform()];
  const from = at();
  // A third of the clutter is short: dust and scratches.
  const to: readonly [number, number] =
    random.uniform() < 0.35 ? [from[0] + between(random, -4, 4), from[1] + between(random, -4, 4)] : at();
  return {
    from,
    to,
    width: between(random, 0.8, 4),
    color: hsv(random.uniform(), random.uniform(), random.uniform()),
    opacity: between(random, 0.3, 1),
  };
}

function randomCamera(random: Random): Camera {
  return {
    gain: between(random, 0.75, 1.2),
    bias: between(random, -20, 20),
    vignette: random.uniform() < 0.3 ? between(random, -0.4, 0.1) : 0,
    blur: random.uniform() < 0.4 ? 1 + random.integer(3) : 0,
    noise: random.uniform() < 0.7 ? between(random, 0, 10) : 0,
    gray: random.uniform() < 0.1,
    quality: random.uniform() < 0.25 ? 40 + random.integer(55) : null,
    noiseSeed: random.uint32(),
  };
}
