/** Initial values of weights, by PyTorch's formulas. Each function returns `length` values. */
import type { Random } from '../core/random.ts';

type Values = Float32Array<ArrayBuffer>;

/** The same value for every element. */
export function constant(length: number, value: number): Values {
  return new Float32Array(length).fill(value);
}

/** Glorot and Bengio 2010: uniform in +-sqrt(6 / (fanIn + fanOut)). */
export function xavierUniform(random: Random, length: number, fanIn: number, fanOut: number): Values {
  const bound = Math.sqrt(6 / (fanIn + fanOut));
  return random.uniformArray(length, -bound, bound);
}

/** He et al. 2015 for ReLU, fan-out mode: normal with standard deviation sqrt(2 / fanOut). */
export function kaimingNormalFanOut(random: Random, length: number, fanOut: number): Values {
  return random.normalArray(length, 0, Math.sqrt(2 / fanOut));
}

/**
 * He et al. 2015, fan-in mode: uniform in +-sqrt(6 / ((1 + slope^2) fanIn)).
 * `slope` 1 is Detectron2's c2_xavier_fill; sqrt(5) is PyTorch's default of Linear and Conv2d.
 */
export function kaimingUniform(random: Random, length: number, fanIn: number, slope: number): Values {
  const bound = Math.sqrt(6 / ((1 + slope * slope) * fanIn));
  return random.uniformArray(length, -bound, bound);
}

/** PyTorch's default for biases: uniform in +-1 / sqrt(fanIn). */
export function uniformBias(random: Random, length: number, fanIn: number): Values {
  const bound = 1 / Math.sqrt(fanIn);
  return random.uniformArray(length, -bound, bound);
}
