/** Reference of the dynamic interaction. */
import { normalizationGradient, normalized } from './norms.ts';
import { type HostArray, memoized, type Reference, sigma } from './reference.ts';

/** The inputs of the dynamic interaction. `parameters`: W1 as (d, k), then W2 as (k, d), for each proposal. */
interface InteractionInputs {
  /** [R, P, d]: R proposals, P positions. */
  readonly roi: HostArray;
  /** [R, 2 d k]. */
  readonly parameters: HostArray;
  /** [k], [k], [d], [d]. */
  readonly gamma1: HostArray;
  readonly beta1: HostArray;
  readonly gamma2: HostArray;
  readonly beta2: HostArray;
}

/**
 * The dynamic interaction: two products per proposal, each followed by layer norm and ReLU.
 * @param proposals the proposals whose upstream gradient is not zero
 */
export function interactionReference(
  { roi, parameters, gamma1, beta1, gamma2, beta2 }: InteractionInputs,
  proposals: readonly number[],
  upstream: HostArray,
): Reference {
  const [, positions, d] = roi.shape;
  const k = gamma1.data.length;
  const w1 = (r: number, i: number, j: number): number => parameters.data[r * 2 * d * k + i * k + j];
  const w2 = (r: number, j: number, i: number): number => parameters.data[r * 2 * d * k + d * k + j * d + i];
  const input = (r: number, p: number, i: number): number => roi.data[(r * positions + p) * d + i];
  const relu = (value: number): number => Math.max(0, value);
  /** The forward pass at position p of proposal r, by key r * positions + p. */
  const at = memoized((key) => {
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
  /** Gradients at a key, of both layers: with respect to the inputs of ReLU (dNorm) and to the products (dHidden). */
  const back = memoized((key) => {
    const r = Math.floor(key / positions);
    const { norm1, x1, norm2, out } = at(key);
    const dNorm2 = Float64Array.from({ length: d }, (_, i) => (out[i] > 0 ? upstream.data[key * d + i] : 0));
    const through2 = normalizationGradient(norm2, (i) => dNorm2[i] * gamma2.data[i]);
    const dHidden2 = Float64Array.from({ length: d }, (_, i) => through2(i));
    const dNorm1 = Float64Array.from({ length: k }, (_, j) =>
      x1[j] > 0 ? sigma(d, (i) => dHidden2[i] * w2(r, j, i)) : 0,
    );
    const through1 = normalizationGradient(norm1, (j) => dNorm1[j] * gamma1.data[j]);
    return { dNorm1, dNorm2, dHidden1: Float64Array.from({ length: k }, (_, j) => through1(j)), dHidden2 };
  });
  const everywhere = (term: (key: number) => number): number =>
    proposals.reduce((sum, r) => sum + sigma(positions, (p) => term(r * positions + p)), 0);
  return {
    output: (index) => at(Math.floor(index / d)).out[index % d],
    gradients: {
      roi: (index) => {
        const key = Math.floor(index / d);
        return sigma(k, (j) => back(key).dHidden1[j] * w1(Math.floor(key / positions), index % d, j));
      },
      parameters: (index) => {
        const [r, inside] = [Math.floor(index / (2 * d * k)), index % (2 * d * k)];
        const key = r * positions;
        if (inside < d * k)
          return sigma(positions, (p) => input(r, p, Math.floor(inside / k)) * back(key + p).dHidden1[inside % k]);
        const [j, i] = [Math.floor((inside - d * k) / d), (inside - d * k) % d];
        return sigma(positions, (p) => at(key + p).x1[j] * back(key + p).dHidden2[i]);
      },
      gamma1: (j) => everywhere((key) => back(key).dNorm1[j] * at(key).norm1.values[j]),
      beta1: (j) => everywhere((key) => back(key).dNorm1[j]),
      gamma2: (i) => everywhere((key) => back(key).dNorm2[i] * at(key).norm2.values[i]),
      beta2: (i) => everywhere((key) => back(key).dNorm2[i]),
    },
  };
}
