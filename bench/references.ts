/**
 * What kernels are held against before they are timed: plain float64 on the host, one entry at a time, so that a sample of a large result is cheap.
 * Written from the definitions, independently of the engine. Gradients are vector-Jacobian products with the given upstream.
 */

/** A row-major f32 array on the host. */
export interface HostArray {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

/** An entry by its flat index. */
export type Entry = (index: number) => number;

export interface Reference {
  readonly output: Entry;
  /** By the names of the inputs. */
  readonly gradients: Readonly<Record<string, Entry>>;
}

/** Remembers what was computed for a number: a row, a head, a proposal. */
function remembered<T>(compute: (key: number) => T): (key: number) => T {
  const known = new Map<number, T>();
  return (key) => {
    let value = known.get(key);
    if (value === undefined) {
      value = compute(key);
      known.set(key, value);
    }
    return value;
  };
}

/** The sum of f(0) .. f(count - 1). */
function sigma(count: number, f: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += f(i);
  return sum;
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** op(a) op(b) by batch entry; both operands have the same batch. */
export function matmulReference(
  a: HostArray,
  b: HostArray,
  transposeA: boolean,
  transposeB: boolean,
  upstream: HostArray,
): Reference {
  const [rowsA, columnsA] = a.shape.slice(-2);
  const [rowsB, columnsB] = b.shape.slice(-2);
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const n = transposeB ? rowsB : columnsB;
  const atA = (batch: number, i: number, j: number): number =>
    a.data[batch * m * k + (transposeA ? j * m + i : i * k + j)];
  const atB = (batch: number, i: number, j: number): number =>
    b.data[batch * k * n + (transposeB ? j * k + i : i * n + j)];
  const atG = (batch: number, i: number, j: number): number => upstream.data[(batch * m + i) * n + j];
  const split = (index: number, rows: number, columns: number): [batch: number, row: number, column: number] => [
    Math.floor(index / (rows * columns)),
    Math.floor(index / columns) % rows,
    index % columns,
  ];
  return {
    output: (index) => {
      const [batch, i, j] = split(index, m, n);
      return sigma(k, (l) => atA(batch, i, l) * atB(batch, l, j));
    },
    gradients: {
      a: (index) => {
        const [batch, row, column] = split(index, rowsA, columnsA);
        const [i, l] = transposeA ? [column, row] : [row, column];
        return sigma(n, (j) => atG(batch, i, j) * atB(batch, l, j));
      },
      b: (index) => {
        const [batch, row, column] = split(index, rowsB, columnsB);
        const [l, j] = transposeB ? [column, row] : [row, column];
        return sigma(m, (i) => atA(batch, i, l) * atG(batch, i, j));
      },
    },
  };
}

/** Cross-correlation: x [B, H, W, C], weight [kh, kw, C / groups, O]. */
export function conv2dReference(
  x: HostArray,
  weight: HostArray,
  stride: number,
  padding: number,
  groups: number,
  upstream: HostArray,
): Reference {
  const [, H, W, C] = x.shape;
  const [kh, kw, groupC, O] = weight.shape;
  const [B, OH, OW] = upstream.shape;
  const groupO = O / groups;
  const atX = (b: number, y: number, column: number, c: number): number =>
    y < 0 || y >= H || column < 0 || column >= W ? 0 : x.data[((b * H + y) * W + column) * C + c];
  const atW = (ky: number, kx: number, c: number, o: number): number =>
    weight.data[((ky * kw + kx) * groupC + c) * O + o];
  const atG = (b: number, y: number, column: number, o: number): number =>
    upstream.data[((b * OH + y) * OW + column) * O + o];
  return {
    output: (index) => {
      const [o, ox, oy, b] = [
        index % O,
        Math.floor(index / O) % OW,
        Math.floor(index / (O * OW)) % OH,
        Math.floor(index / (O * OW * OH)),
      ];
      const first = Math.floor(o / groupO) * groupC;
      return sigma(kh, (ky) =>
        sigma(kw, (kx) =>
          sigma(
            groupC,
            (c) => atX(b, oy * stride + ky - padding, ox * stride + kx - padding, first + c) * atW(ky, kx, c, o),
          ),
        ),
      );
    },
    gradients: {
      x: (index) => {
        const [c, ix, iy, b] = [
          index % C,
          Math.floor(index / C) % W,
          Math.floor(index / (C * W)) % H,
          Math.floor(index / (C * W * H)),
        ];
        const group = Math.floor(c / groupC);
        return sigma(kh, (ky) =>
          sigma(kw, (kx) => {
            const [oy, ox] = [(iy + padding - ky) / stride, (ix + padding - kx) / stride];
            if (!Number.isInteger(oy) || !Number.isInteger(ox) || oy < 0 || ox < 0 || oy >= OH || ox >= OW) return 0;
            return sigma(
              groupO,
              (o) => atG(b, oy, ox, group * groupO + o) * atW(ky, kx, c % groupC, group * groupO + o),
            );
          }),
        );
      },
      weight: (index) => {
        const [o, c, kx, ky] = [
          index % O,
          Math.floor(index / O) % groupC,
          Math.floor(index / (O * groupC)) % kw,
          Math.floor(index / (O * groupC * kw)),
        ];
        const channel = Math.floor(o / groupO) * groupC + c;
        return sigma(B, (b) =>
          sigma(OH, (oy) =>
            sigma(
              OW,
              (ox) => atG(b, oy, ox, o) * atX(b, oy * stride + ky - padding, ox * stride + kx - padding, channel),
            ),
          ),
        );
      },
    },
  };
}

const EPSILON = 1e-5;

/** (x - mean) / sqrt(variance + epsilon) over `length` values, and 1 / sqrt(variance + epsilon). */
function normalized(
  length: number,
  at: (i: number) => number,
): { readonly values: Float64Array; readonly inverse: number } {
  const mean = sigma(length, at) / length;
  const inverse = 1 / Math.sqrt(sigma(length, (i) => (at(i) - mean) ** 2) / length + EPSILON);
  return { values: Float64Array.from({ length }, (_, i) => (at(i) - mean) * inverse), inverse };
}

/** The gradient by x of such values, given that by them. */
function throughNormalization(
  { values, inverse }: ReturnType<typeof normalized>,
  upstream: (i: number) => number,
): (i: number) => number {
  const length = values.length;
  const mean = sigma(length, upstream) / length;
  const along = sigma(length, (i) => upstream(i) * values[i]) / length;
  return (i) => inverse * (upstream(i) - mean - values[i] * along);
}

/** Of the rows of x [..., D]. */
export function layerNormReference(x: HostArray, gamma: HostArray, beta: HostArray, upstream: HostArray): Reference {
  const d = gamma.data.length;
  const rows = x.data.length / d;
  const row = remembered((r) => normalized(d, (i) => x.data[r * d + i]));
  const rowGradient = remembered((r) => throughNormalization(row(r), (i) => upstream.data[r * d + i] * gamma.data[i]));
  return {
    output: (index) => row(Math.floor(index / d)).values[index % d] * gamma.data[index % d] + beta.data[index % d],
    gradients: {
      x: (index) => rowGradient(Math.floor(index / d))(index % d),
      gamma: (j) => sigma(rows, (r) => upstream.data[r * d + j] * row(r).values[j]),
      beta: (j) => sigma(rows, (r) => upstream.data[r * d + j]),
    },
  };
}

/** x [B, H, W, C], statistics over an image's pixels and a group of neighbouring channels. */
export function groupNormReference(
  x: HostArray,
  gamma: HostArray,
  beta: HostArray,
  groups: number,
  upstream: HostArray,
): Reference {
  const C = gamma.data.length;
  const B = x.shape[0];
  const width = C / groups;
  const pixels = x.data.length / (B * C);
  /** Where the i-th value of a group (of an image) lies. */
  const place = (group: number, i: number): number =>
    (Math.floor(group / groups) * pixels + Math.floor(i / width)) * C + (group % groups) * width + (i % width);
  const statistics = remembered((group) => normalized(pixels * width, (i) => x.data[place(group, i)]));
  const gradient = remembered((group) =>
    throughNormalization(statistics(group), (i) => upstream.data[place(group, i)] * gamma.data[place(group, i) % C]),
  );
  const locate = (index: number): [group: number, i: number] => {
    const [c, pixel] = [index % C, Math.floor(index / C)];
    return [Math.floor(pixel / pixels) * groups + Math.floor(c / width), (pixel % pixels) * width + (c % width)];
  };
  const ofChannel = (c: number, term: (index: number) => number): number =>
    sigma(B * pixels, (pixel) => term(pixel * C + c));
  const value = (index: number): number => {
    const [group, i] = locate(index);
    return statistics(group).values[i];
  };
  return {
    output: (index) => value(index) * gamma.data[index % C] + beta.data[index % C],
    gradients: {
      x: (index) => {
        const [group, i] = locate(index);
        return gradient(group)(i);
      },
      gamma: (c) => ofChannel(c, (index) => upstream.data[index] * value(index)),
      beta: (c) => ofChannel(c, (index) => upstream.data[index]),
    },
  };
}

function softmaxOf(scores: Float64Array): Float64Array {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const terms = Float64Array.from(scores, (score) => Math.exp(score - highest));
  const total = terms.reduce((a, b) => a + b, 0);
  return terms.map((term) => term / total);
}

/** Over the last axis. */
export function softmaxReference(x: HostArray, upstream: HostArray): Reference {
  const d = x.shape[x.shape.length - 1];
  const row = remembered((r) => softmaxOf(Float64Array.from(x.data.subarray(r * d, (r + 1) * d))));
  const dot = remembered((r) => sigma(d, (i) => upstream.data[r * d + i] * row(r)[i]));
  return {
    output: (index) => row(Math.floor(index / d))[index % d],
    gradients: {
      x: (index) => row(Math.floor(index / d))[index % d] * (upstream.data[index] - dot(Math.floor(index / d))),
    },
  };
}

export function sumReference(x: HostArray, upstream: HostArray): Reference {
  return { output: () => sigma(x.data.length, (i) => x.data[i]), gradients: { x: () => upstream.data[0] } };
}

/** qkv [B, N, 3 d]. */
export function attentionReference(qkv: HostArray, heads: number, upstream: HostArray): Reference {
  const [, n, width] = qkv.shape;
  const d = width / 3;
  const size = d / heads;
  const scale = 1 / Math.sqrt(size);
  const at = (part: number, b: number, h: number, i: number, c: number): number =>
    qkv.data[(b * n + i) * width + part * d + h * size + c];
  const up = (b: number, h: number, i: number, c: number): number => upstream.data[(b * n + i) * d + h * size + c];
  /** A head of an image: its attention, and the gradient by its scores. */
  const head = remembered((key) => {
    const [b, h] = [Math.floor(key / heads), key % heads];
    return Array.from({ length: n }, (_, i) => {
      const weights = softmaxOf(
        Float64Array.from({ length: n }, (__, j) => scale * sigma(size, (c) => at(0, b, h, i, c) * at(1, b, h, j, c))),
      );
      const by = Float64Array.from({ length: n }, (__, j) => sigma(size, (c) => up(b, h, i, c) * at(2, b, h, j, c)));
      const dot = sigma(n, (j) => by[j] * weights[j]);
      return { weights, scores: by.map((g, j) => weights[j] * (g - dot)) };
    });
  });
  return {
    output: (index) => {
      const [c, h, i, b] = [
        index % size,
        Math.floor(index / size) % heads,
        Math.floor(index / d) % n,
        Math.floor(index / (d * n)),
      ];
      const { weights } = head(b * heads + h)[i];
      return sigma(n, (j) => weights[j] * at(2, b, h, j, c));
    },
    gradients: {
      qkv: (index) => {
        const [c, h, part, i, b] = [
          index % size,
          Math.floor(index / size) % heads,
          Math.floor(index / d) % 3,
          Math.floor(index / width) % n,
          Math.floor(index / (width * n)),
        ];
        const rows = head(b * heads + h);
        if (part === 0) return scale * sigma(n, (j) => rows[i].scores[j] * at(1, b, h, j, c));
        if (part === 1) return scale * sigma(n, (j) => rows[j].scores[i] * at(0, b, h, j, c));
        return sigma(n, (j) => rows[j].weights[i] * up(b, h, j, c));
      },
    },
  };
}

/** roi [R, P, d], parameters [R, 2 d k]: W1 as (d, k), then W2 as (k, d). `proposals`: those whose upstream is not zero. */
export function interactionReference(
  roi: HostArray,
  parameters: HostArray,
  gamma1: HostArray,
  beta1: HostArray,
  gamma2: HostArray,
  beta2: HostArray,
  proposals: readonly number[],
  upstream: HostArray,
): Reference {
  const [, positions, d] = roi.shape;
  const k = gamma1.data.length;
  const w1 = (r: number, i: number, j: number): number => parameters.data[r * 2 * d * k + i * k + j];
  const w2 = (r: number, j: number, i: number): number => parameters.data[r * 2 * d * k + d * k + j * d + i];
  const input = (r: number, p: number, i: number): number => roi.data[(r * positions + p) * d + i];
  const relu = (value: number): number => Math.max(0, value);
  /** Position p of proposal r, at key r * positions + p. */
  const at = remembered((key) => {
    const [r, p] = [Math.floor(key / positions), key % positions];
    const hidden1 = Float64Array.from({ length: k }, (_, j) => sigma(d, (i) => input(r, p, i) * w1(r, i, j)));
    const norm1 = normalized(k, (j) => hidden1[j]);
    const x1 = Float64Array.from({ length: k }, (_, j) => relu(norm1.values[j] * gamma1.data[j] + beta1.data[j]));
    const hidden2 = Float64Array.from({ length: d }, (_, i) => sigma(k, (j) => x1[j] * w2(r, j, i)));
    const norm2 = normalized(d, (i) => hidden2[i]);
    return {
      norm1,
      x1,
      norm2,
      out: Float64Array.from({ length: d }, (_, i) => relu(norm2.values[i] * gamma2.data[i] + beta2.data[i])),
    };
  });
  /** Gradients by both pre-activations and both products there. */
  const back = remembered((key) => {
    const r = Math.floor(key / positions);
    const { norm1, x1, norm2, out } = at(key);
    const by2 = Float64Array.from({ length: d }, (_, i) => (out[i] > 0 ? upstream.data[key * d + i] : 0));
    const through2 = throughNormalization(norm2, (i) => by2[i] * gamma2.data[i]);
    const hidden2 = Float64Array.from({ length: d }, (_, i) => through2(i));
    const by1 = Float64Array.from({ length: k }, (_, j) => (x1[j] > 0 ? sigma(d, (i) => hidden2[i] * w2(r, j, i)) : 0));
    const through1 = throughNormalization(norm1, (j) => by1[j] * gamma1.data[j]);
    return { by1, by2, hidden1: Float64Array.from({ length: k }, (_, j) => through1(j)), hidden2 };
  });
  const everywhere = (term: (key: number) => number): number =>
    proposals.reduce((sum, r) => sum + sigma(positions, (p) => term(r * positions + p)), 0);
  return {
    output: (index) => at(Math.floor(index / d)).out[index % d],
    gradients: {
      roi: (index) => {
        const key = Math.floor(index / d);
        return sigma(k, (j) => back(key).hidden1[j] * w1(Math.floor(key / positions), index % d, j));
      },
      parameters: (index) => {
        const [r, inside] = [Math.floor(index / (2 * d * k)), index % (2 * d * k)];
        const key = r * positions;
        if (inside < d * k)
          return sigma(positions, (p) => input(r, p, Math.floor(inside / k)) * back(key + p).hidden1[inside % k]);
        const [j, i] = [Math.floor((inside - d * k) / d), (inside - d * k) % d];
        return sigma(positions, (p) => at(key + p).x1[j] * back(key + p).hidden2[i]);
      },
      gamma1: (j) => everywhere((key) => back(key).by1[j] * at(key).norm1.values[j]),
      beta1: (j) => everywhere((key) => back(key).by1[j]),
      gamma2: (i) => everywhere((key) => back(key).by2[i] * at(key).norm2.values[i]),
      beta2: (i) => everywhere((key) => back(key).by2[i]),
    },
  };
}

export interface RoiGeometry {
  readonly resolution: number;
  readonly samples: number;
  readonly strides: readonly number[];
}

/** boxes [B, N, 4], maps [B, h, w, C] by level; the level by the formula of the FPN paper, sampling as torchvision's roi_align with aligned coordinates. */
export function roiAlignReference(
  boxes: HostArray,
  maps: readonly HostArray[],
  { resolution: r, samples: n, strides }: RoiGeometry,
  upstream: HostArray,
): Reference {
  const perImage = boxes.shape[1];
  const C = maps[0].shape[3];
  const levelOf = (box: number): number => {
    const [x1, y1, x2, y2] = boxes.data.subarray(4 * box, 4 * box + 4);
    const level = Math.floor(4 + Math.log2(Math.sqrt(Math.max(0, (x2 - x1) * (y2 - y1))) / 224 + 1e-8));
    return Math.min(Math.max(level, 2), maps.length + 1) - 2;
  };
  const axis = (at: number, size: number): [low: number, high: number, fraction: number] => {
    const low = Math.floor(Math.max(at, 0));
    return low >= size - 1 ? [size - 1, size - 1, 0] : [low, low + 1, Math.max(at, 0) - low];
  };
  /** The pixels (of all images of its level) that a bin is the weighted sum of. */
  const bin = remembered((key) => {
    const box = Math.floor(key / (r * r));
    const [by, bx] = [Math.floor(key / r) % r, key % r];
    const level = levelOf(box);
    const [, height, width] = maps[level].shape;
    const [x1, y1, x2, y2] = Array.from(boxes.data.subarray(4 * box, 4 * box + 4), (v) => v / strides[level] - 0.5);
    const pixels: [pixel: number, weight: number][] = [];
    for (let sy = 0; sy < n; sy++)
      for (let sx = 0; sx < n; sx++) {
        const y = y1 + ((y2 - y1) * (by + (sy + 0.5) / n)) / r;
        const x = x1 + ((x2 - x1) * (bx + (sx + 0.5) / n)) / r;
        if (y < -1 || y > height || x < -1 || x > width) continue;
        const [y0, yy, fy] = axis(y, height);
        const [x0, xx, fx] = axis(x, width);
        const first = Math.floor(box / perImage) * height * width;
        for (const [py, px, weight] of [
          [y0, x0, (1 - fy) * (1 - fx)],
          [y0, xx, (1 - fy) * fx],
          [yy, x0, fy * (1 - fx)],
          [yy, xx, fy * fx],
        ])
          pixels.push([first + py * width + px, weight / (n * n)]);
      }
    return { level, pixels };
  });
  /** The bins that a pixel has a part in. */
  const takers = remembered((level) => {
    const byPixel = new Map<number, [key: number, weight: number][]>();
    for (let key = 0; key < sizeOf(boxes.shape.slice(0, 2)) * r * r; key++) {
      if (levelOf(Math.floor(key / (r * r))) !== level) continue;
      for (const [pixel, weight] of bin(key).pixels) {
        const list = byPixel.get(pixel);
        if (list) list.push([key, weight]);
        else byPixel.set(pixel, [[key, weight]]);
      }
    }
    return byPixel;
  });
  return {
    output: (index) => {
      const { level, pixels } = bin(Math.floor(index / C));
      return pixels.reduce((sum, [pixel, weight]) => sum + weight * maps[level].data[pixel * C + (index % C)], 0);
    },
    gradients: Object.fromEntries(
      maps.map((_, level) => [
        `map${level}`,
        (index: number) =>
          (takers(level).get(Math.floor(index / C)) ?? []).reduce(
            (sum, [key, weight]) => sum + weight * upstream.data[key * C + (index % C)],
            0,
          ),
      ]),
    ),
  };
}
