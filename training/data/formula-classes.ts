/**
 * The classes of the formula images: families of outlines, each from a few numbers. They follow formula-driven
 * supervised learning: radial contours (Kataoka et al., arXiv 2206.09132), fractal outlines, superformula shapes
 * (Gielis, 2003), and attractors of iterated function systems (Kataoka et al., arXiv 2101.08515).
 */
import { Random } from '../../engine/core/random.ts';

/** Radii are given at this number of angles. A power of two. */
export const OUTLINE_ANGLES = 128;

/** One object in its own frame: an outline around the origin, or points. The longest radius is about 1. */
export type Outline =
  | { readonly kind: 'radial'; readonly radii: Float32Array }
  /** (x, y) pairs. */
  | { readonly kind: 'points'; readonly points: Float32Array };

/** Colors and pattern that most objects of a class share. */
export interface Appearance {
  /** 0 .. 1. */
  readonly hue: number;
  readonly saturation: number;
  readonly brightness: number;
  /** Index of the pattern. */
  readonly pattern: number;
}

export interface FormulaClass {
  readonly name: string;
  /** Height of an object divided by its width, before its rotation. */
  readonly aspect: number;
  readonly appearance: Appearance;
  /** Draws an object of the class. */
  readonly outline: (random: Random) => Outline;
}

/** Increased by every change after which the same seed gives other images. */
export const FORMULA_VERSION = 1;

/** Number of classes. */
export const FORMULA_CLASSES = 16;

/** Number of the random stream of the classes. Scenes have smaller numbers. */
const CLASS_STREAM = 0x40000000;

const between = (random: Random, low: number, high: number): number => low + (high - low) * random.uniform();

/** The same seed gives the same classes. */
export function formulaClasses(seed: number): readonly FormulaClass[] {
  return Array.from({ length: FORMULA_CLASSES }, (_, index) => formulaClass(seed, index));
}

function formulaClass(seed: number, index: number): FormulaClass {
  const random = new Random(seed, CLASS_STREAM, index);
  const appearance: Appearance = {
    // Multiples of the golden ratio are far from each other.
    hue: (0.618 * index) % 1,
    saturation: between(random, 0.15, 0.9),
    brightness: between(random, 0.25, 0.95),
    pattern: random.uint32(),
  };
  const aspect = random.uniform() < 0.5 ? 1 : between(random, 0.35, 0.95);
  // Of eight classes, four are radial contours, two fractal outlines, one a superformula, one an attractor.
  const family = ['contour', 'contour', 'superformula', 'fractal', 'contour', 'contour', 'attractor', 'fractal'][
    index % 8
  ];
  const outline = { contour, superformula, fractal, attractor }[family as 'contour'](random, index);
  return { name: `${family}-${index}`, aspect, appearance, outline };
}

const radial = (radii: Float32Array): Outline => {
  let longest = 0;
  for (let i = 0; i < radii.length; i++) if (radii[i] > longest) longest = radii[i];
  for (let i = 0; i < radii.length; i++) radii[i] /= longest;
  return { kind: 'radial', radii };
};

/** Values of a cosine over one turn. */
const COSINE = Float64Array.from({ length: OUTLINE_ANGLES }, (_, i) => Math.cos((2 * Math.PI * i) / OUTLINE_ANGLES));
const MASK = OUTLINE_ANGLES - 1;

/** Cosine and sine of the angle of a radius. */
export const cosineAt = (index: number): number => COSINE[index & MASK];
export const sineAt = (index: number): number => COSINE[(index - OUTLINE_ANGLES / 4) & MASK];

interface Harmonic {
  /** Waves per turn. */
  readonly order: number;
  readonly amplitude: number;
  readonly phase: number;
}

/** 1 plus harmonics, at least `low`. */
function harmonicOutline(harmonics: readonly Harmonic[], low: number): Outline {
  const radii = new Float32Array(OUTLINE_ANGLES).fill(1);
  for (const { order, amplitude, phase } of harmonics) {
    // cos(order t + phase) by the table: sin(x) is cos(x - a quarter turn).
    const [a, b] = [amplitude * Math.cos(phase), amplitude * Math.sin(phase)];
    for (let i = 0; i < OUTLINE_ANGLES; i++)
      radii[i] += a * COSINE[(order * i) & MASK] - b * COSINE[(order * i - OUTLINE_ANGLES / 4) & MASK];
  }
  for (let i = 0; i < OUTLINE_ANGLES; i++) if (radii[i] < low) radii[i] = low;
  return radial(radii);
}

/** A circle with up to four harmonics. The first classes are nearly round: cells, fruits, wheels. */
function contour(random: Random, index: number): (random: Random) => Outline {
  const count = index < 2 ? 1 : 1 + random.integer(4);
  const strength = index < 2 ? 0.05 : between(random, 0.08, 0.4);
  const harmonics = Array.from({ length: count }, () => ({
    order: 2 + random.integer(7),
    amplitude: (strength * between(random, 0.5, 1)) / Math.sqrt(count),
    phase: between(random, 0, 2 * Math.PI),
  }));
  const variation = between(random, 0.02, 0.12);
  return (own) => {
    const drawn = harmonics.map(({ order, amplitude, phase }) => ({
      order,
      amplitude: amplitude * between(own, 0.75, 1.25),
      phase: phase + between(own, -0.3, 0.3),
    }));
    // A little of an own low harmonic: no two objects are alike.
    drawn.push({ order: 2 + own.integer(3), amplitude: variation * own.uniform(), phase: 7 * own.uniform() });
    return harmonicOutline(drawn, 0.15);
  };
}

/** A rough outline: harmonics up to the 24th order whose amplitudes fall by a power law. */
function fractal(random: Random): (random: Random) => Outline {
  const exponent = between(random, 0.9, 1.8);
  const strength = between(random, 0.25, 0.6);
  const shared = Array.from({ length: 24 }, () => between(random, 0, 2 * Math.PI));
  const freedom = between(random, 0.2, 1.5);
  return (own) =>
    harmonicOutline(
      shared.map((phase, i) => ({
        order: i + 2,
        amplitude: strength * (i + 2) ** -exponent,
        phase: phase + freedom * own.normal(),
      })),
      0.15,
    );
}

/** Gielis' superformula: polygons, stars, flowers. */
function superformula(random: Random): (random: Random) => Outline {
  const symmetry = 3 + random.integer(6);
  const n1 = between(random, 0.35, 2.5);
  const n2 = n1 * between(random, 0.8, 2.5);
  // Powers by logarithms: those of cosine and sine are the same for all objects.
  const logarithms = Float64Array.from({ length: 2 * OUTLINE_ANGLES }, (_, i) => {
    const u = (symmetry * Math.PI * (i >> 1)) / (2 * OUTLINE_ANGLES);
    return Math.log(Math.max(1e-9, Math.abs((i & 1) === 0 ? Math.cos(u) : Math.sin(u))));
  });
  return (own) => {
    const [first, second] = [n1 * between(own, 0.85, 1.15), n2 * between(own, 0.85, 1.15)];
    const radii = new Float32Array(OUTLINE_ANGLES);
    for (let i = 0; i < OUTLINE_ANGLES; i++) {
      const sum = Math.exp(second * logarithms[2 * i]) + Math.exp(second * logarithms[2 * i + 1]);
      radii[i] = Math.min(4, Math.max(0.1, Math.exp(-Math.log(sum) / first)));
    }
    return radial(radii);
  };
}

/** Number of points of an attractor. */
const ATTRACTOR_POINTS = 1200;

/** The attractor of three or four contracting affine maps. */
function attractor(random: Random): (random: Random) => Outline {
  const maps = Array.from({ length: 3 + random.integer(2) }, () => {
    const scale = between(random, 0.4, 0.62);
    const angle = between(random, -0.9, 0.9);
    const skew = between(random, 0.7, 1.1);
    return {
      a: scale * Math.cos(angle),
      b: -scale * skew * Math.sin(angle),
      c: scale * Math.sin(angle),
      d: scale * skew * Math.cos(angle),
      e: between(random, -0.7, 0.7),
      f: between(random, -0.7, 0.7),
    };
  });
  return (own) => {
    const varied = maps.map((map) => ({ ...map, e: map.e + 0.06 * own.normal(), f: map.f + 0.06 * own.normal() }));
    const points = new Float32Array(2 * ATTRACTOR_POINTS);
    let x = 0;
    let y = 0;
    // A linear congruential generator is good enough to choose maps, and fast.
    let state = own.uint32();
    for (let i = -20; i < ATTRACTOR_POINTS; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const { a, b, c, d, e, f } = varied[Math.floor((state / 2 ** 32) * varied.length)];
      const u = a * x + b * y + e;
      y = c * x + d * y + f;
      x = u;
      if (i < 0) continue;
      points[2 * i] = x;
      points[2 * i + 1] = y;
    }
    return { kind: 'points', points: centered(points) };
  };
}

/** Points with their bounds centered on the origin, and scaled to a longest half side of 1. */
function centered(points: Float32Array): Float32Array {
  const low = [Infinity, Infinity];
  const high = [-Infinity, -Infinity];
  for (let i = 0; i < points.length; i++) {
    const axis = i & 1;
    if (points[i] < low[axis]) low[axis] = points[i];
    if (points[i] > high[axis]) high[axis] = points[i];
  }
  const scale = 2 / Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
  const middle = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
  const result = new Float32Array(points.length);
  for (let i = 0; i < points.length; i++) result[i] = (points[i] - middle[i & 1]) * scale;
  return result;
}
