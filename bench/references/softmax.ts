/** References of sums, softmax and attention. */
import { type HostArray, memoized, type Reference, sigma } from './reference.ts';

/** Softmax of one row. */
function softmaxOf(scores: Float64Array): Float64Array {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const terms = Float64Array.from(scores, (score) => Math.exp(score - highest));
  const total = terms.reduce((a, b) => a + b, 0);
  return terms.map((term) => term / total);
}

/** Softmax over the last axis. */
export function softmaxReference(x: HostArray, upstream: HostArray): Reference {
  const d = x.shape[x.shape.length - 1];
  const row = memoized((r) => softmaxOf(Float64Array.from(x.data.subarray(r * d, (r + 1) * d))));
  const dot = memoized((r) => sigma(d, (i) => upstream.data[r * d + i] * row(r)[i]));
  return {
    output: (index) => row(Math.floor(index / d))[index % d],
    gradients: {
      x: (index) => row(Math.floor(index / d))[index % d] * (upstream.data[index] - dot(Math.floor(index / d))),
    },
  };
}

/** The sum of all values. */
export function sumReference(x: HostArray, upstream: HostArray): Reference {
  return { output: () => sigma(x.data.length, (i) => x.data[i]), gradients: { x: () => upstream.data[0] } };
}

/** Multi-head attention of qkv [B, N, 3 d]. */
export function attentionReference(qkv: HostArray, heads: number, upstream: HostArray): Reference {
  const [, n, width] = qkv.shape;
  const d = width / 3;
  const size = d / heads;
  const scale = 1 / Math.sqrt(size);
  const at = (part: number, b: number, h: number, i: number, c: number): number =>
    qkv.data[(b * n + i) * width + part * d + h * size + c];
  const up = (b: number, h: number, i: number, c: number): number => upstream.data[(b * n + i) * d + h * size + c];
  /** For each query of a head of an image: its attention weights, and the gradient with respect to its scores. */
  const head = memoized((key) => {
    const [b, h] = [Math.floor(key / heads), key % heads];
    return Array.from({ length: n }, (_, i) => {
      const weights = softmaxOf(
        Float64Array.from({ length: n }, (__, j) => scale * sigma(size, (c) => at(0, b, h, i, c) * at(1, b, h, j, c))),
      );
      const dWeights = Float64Array.from({ length: n }, (__, j) =>
        sigma(size, (c) => up(b, h, i, c) * at(2, b, h, j, c)),
      );
      const dot = sigma(n, (j) => dWeights[j] * weights[j]);
      return { weights, dScores: dWeights.map((g, j) => weights[j] * (g - dot)) };
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
        if (part === 0) return scale * sigma(n, (j) => rows[i].dScores[j] * at(1, b, h, j, c));
        if (part === 1) return scale * sigma(n, (j) => rows[j].dScores[i] * at(0, b, h, j, c));
        return sigma(n, (j) => rows[j].weights[i] * up(b, h, j, c));
      },
    },
  };
}
