/** References of normalizations. */
import { type HostArray, memoized, type Reference, sigma } from './reference.ts';

const EPSILON = 1e-5;

/** (x - mean) / sqrt(variance + epsilon) over `length` values, and 1 / sqrt(variance + epsilon). */
export function normalized(
  length: number,
  at: (i: number) => number,
): { readonly values: Float64Array; readonly inverse: number } {
  const mean = sigma(length, at) / length;
  const inverse = 1 / Math.sqrt(sigma(length, (i) => (at(i) - mean) ** 2) / length + EPSILON);
  return { values: Float64Array.from({ length }, (_, i) => (at(i) - mean) * inverse), inverse };
}

/** The gradient with respect to the input of `normalized`, from the gradient with respect to its values. */
export function normalizationGradient(
  { values, inverse }: ReturnType<typeof normalized>,
  upstream: (i: number) => number,
): (i: number) => number {
  const length = values.length;
  const mean = sigma(length, upstream) / length;
  const along = sigma(length, (i) => upstream(i) * values[i]) / length;
  return (i) => inverse * (upstream(i) - mean - values[i] * along);
}

/** Layer norm over the rows of x [..., D]. */
export function layerNormReference(x: HostArray, gamma: HostArray, beta: HostArray, upstream: HostArray): Reference {
  const d = gamma.data.length;
  const rows = x.data.length / d;
  const row = memoized((r) => normalized(d, (i) => x.data[r * d + i]));
  const rowGradient = memoized((r) => normalizationGradient(row(r), (i) => upstream.data[r * d + i] * gamma.data[i]));
  return {
    output: (index) => row(Math.floor(index / d)).values[index % d] * gamma.data[index % d] + beta.data[index % d],
    gradients: {
      x: (index) => rowGradient(Math.floor(index / d))(index % d),
      gamma: (j) => sigma(rows, (r) => upstream.data[r * d + j] * row(r).values[j]),
      beta: (j) => sigma(rows, (r) => upstream.data[r * d + j]),
    },
  };
}

/** Group norm of x [B, H, W, C]: statistics over the pixels of an image and a group of neighboring channels. */
export function groupNormReference(
  { x, gamma, beta }: Readonly<Record<'x' | 'gamma' | 'beta', HostArray>>,
  groups: number,
  upstream: HostArray,
): Reference {
  const C = gamma.data.length;
  const B = x.shape[0];
  const width = C / groups;
  const pixels = x.data.length / (B * C);
  /** Flat index of the i-th value of a group; groups are numbered over all images. */
  const place = (group: number, i: number): number =>
    (Math.floor(group / groups) * pixels + Math.floor(i / width)) * C + (group % groups) * width + (i % width);
  const statistics = memoized((group) => normalized(pixels * width, (i) => x.data[place(group, i)]));
  const gradient = memoized((group) =>
    normalizationGradient(statistics(group), (i) => upstream.data[place(group, i)] * gamma.data[place(group, i) % C]),
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
