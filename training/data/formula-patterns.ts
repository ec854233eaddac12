/** A bank of patterns for the textures of formula images: fractal noise, ridges, cells, stripes, checks and dots. */
import { Random } from '../../engine/core/random.ts';

/** Side of a pattern, pixels. A power of two; patterns repeat beyond it. */
export const PATTERN_SIDE = 256;
const PATTERNS = 32;

/** Number of the random stream of the patterns. */
const PATTERN_STREAM = 0x50000000;

let bank: readonly Uint8Array[] | null = null;

/**
 * Values 0 .. 255, [PATTERN_SIDE, PATTERN_SIDE]. The bank is the same in all data sets, and is computed on first use.
 */
export function patternOf(index: number): Uint8Array {
  bank ??= Array.from({ length: PATTERNS }, (_, i) => makePattern(i, new Random(0, PATTERN_STREAM, i)));
  return bank[index % PATTERNS];
}

/** Noise that repeats after PATTERN_SIDE: octaves from `first` cells per side on, each `decay` times as strong. */
function fractalNoise(random: Random, first: number, octaves: number, decay: number): Float32Array {
  const n = PATTERN_SIDE;
  const sum = new Float32Array(n * n);
  let weight = 1;
  for (let octave = 0, cells = first; octave < octaves && cells <= n / 2; octave++, cells *= 2, weight *= decay) {
    const grid = random.uniformArray(cells * cells);
    const step = cells / n;
    for (let y = 0, i = 0; y < n; y++) {
      const row = Math.floor(y * step);
      const fy = smooth(y * step - row);
      const [upper, lower] = [row * cells, ((row + 1) % cells) * cells];
      for (let x = 0; x < n; x++, i++) {
        const column = Math.floor(x * step);
        const next = (column + 1) % cells;
        const fx = smooth(x * step - column);
        const top = grid[upper + column] + (grid[upper + next] - grid[upper + column]) * fx;
        const bottom = grid[lower + column] + (grid[lower + next] - grid[lower + column]) * fx;
        sum[i] += weight * (top + (bottom - top) * fy);
      }
    }
  }
  return sum;
}

const smooth = (t: number): number => t * t * (3 - 2 * t);

function makePattern(index: number, random: Random): Uint8Array {
  const first = 2 ** (1 + random.integer(4));
  const noise = fractalNoise(random, first, 3 + random.integer(4), 0.4 + 0.4 * random.uniform());
  const kinds = [plain, ridges, stripes, plain, cells, checks, plain, dots];
  return stretched(kinds[index % kinds.length](noise, random));
}

const plain = (noise: Float32Array): Float32Array => noise;

const middle = (values: Float32Array): number => values.reduce((a, b) => a + b, 0) / values.length;

function ridges(noise: Float32Array): Float32Array {
  const mean = middle(noise);
  return noise.map((value) => 1 - Math.abs(value - mean));
}

function stripes(noise: Float32Array, random: Random): Float32Array {
  const count = 8 + random.integer(24);
  const warp = 2 + 6 * random.uniform();
  return noise.map((value, i) => Math.sin((2 * Math.PI * count * (i % PATTERN_SIDE)) / PATTERN_SIDE + warp * value));
}

function checks(noise: Float32Array, random: Random): Float32Array {
  const count = 4 + random.integer(12);
  return noise.map((value, i) => {
    const [x, y] = [(i % PATTERN_SIDE) / PATTERN_SIDE, Math.floor(i / PATTERN_SIDE) / PATTERN_SIDE];
    return Math.sign(Math.sin(2 * Math.PI * count * x) * Math.sin(2 * Math.PI * count * y)) + value;
  });
}

/** Distance to the nearest of some random points, as in Worley's noise. */
function distances(random: Random, count: number): Float32Array {
  const n = PATTERN_SIDE;
  const points = random.uniformArray(2 * count, 0, n);
  // Half the resolution is enough.
  const coarse = new Float32Array((n / 2) ** 2);
  for (let i = 0; i < coarse.length; i++) {
    const [x, y] = [(i % (n / 2)) * 2, Math.floor(i / (n / 2)) * 2];
    let best = Infinity;
    for (let p = 0; p < points.length; p += 2) {
      const dx = Math.abs(points[p] - x);
      const dy = Math.abs(points[p + 1] - y);
      const [u, v] = [Math.min(dx, n - dx), Math.min(dy, n - dy)];
      best = Math.min(best, u * u + v * v);
    }
    coarse[i] = Math.sqrt(best);
  }
  return Float32Array.from({ length: n * n }, (_, i) => coarse[(i >> 9) * (n / 2) + ((i % n) >> 1)]);
}

function cells(noise: Float32Array, random: Random): Float32Array {
  const distance = distances(random, 40 + random.integer(120));
  return noise.map((value, i) => distance[i] / 12 + 0.5 * value);
}

function dots(noise: Float32Array, random: Random): Float32Array {
  const distance = distances(random, 60 + random.integer(140));
  const radius = 3 + 4 * random.uniform();
  return noise.map((value, i) => (distance[i] < radius ? 1.5 : 0) + 0.7 * value);
}

/** Values stretched to 0 .. 255. */
function stretched(values: Float32Array): Uint8Array {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return Uint8Array.from(values, (value) => (255 * (value - low)) / Math.max(high - low, 1e-6));
}
