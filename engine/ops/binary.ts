/** Elementwise functions of two tensors, broadcast by NumPy's rules. */
import {
  binaryGradientKernel,
  binaryKernel,
  MAX_RANK,
  type BinaryForm,
  type BinaryFunction,
  type BinaryParams,
  type OperandForm,
} from '../../kernels/binary.ts';
import { defineOp, opFunction, type OpInfo } from '../core/op.ts';
import { broadcastShapes, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';
import { elementwise } from '../core/elementwise.ts';
import { sumTo } from './reduce-variants.ts';

/** Adjacent dimensions of the output, merged, and which operands vary along them. */
interface Run {
  size: number;
  readonly x: boolean;
  readonly y: boolean;
}

/** Merges adjacent dimensions along which the same operands vary. */
function mergedRuns(output: Shape, x: Shape, y: Shape): Run[] {
  const varies = (shape: Shape, i: number): boolean => (shape[shape.length - output.length + i] ?? 1) === output[i];
  const runs: Run[] = [];
  output.forEach((size, i) => {
    if (size === 1) return;
    const run = { size, x: varies(x, i), y: varies(y, i) };
    const last = runs.at(-1);
    if (last && last.x === run.x && last.y === run.y) last.size *= size;
    else runs.push(run);
  });
  return runs;
}

interface Launch {
  readonly form: Omit<BinaryForm, 'lanes'>;
  readonly params: BinaryParams;
  readonly count: number;
}

function launchOf(output: Shape, xShape: Shape, yShape: Shape): Launch {
  const runs = mergedRuns(output, xShape, yShape);
  const rank = Math.max(1, runs.length);
  const innermost = runs.at(-1);
  const n = innermost?.size ?? 1;
  const width = rank === 1 || n % 4 === 0 ? 4 : 1;
  const operand = (name: 'x' | 'y'): { form: OperandForm; strides: number[] } => {
    const strides = [0, 0, 0, 0];
    if (runs.every((run) => run[name])) return { form: 'full', strides };
    if (!runs.some((run) => run[name])) return { form: 'scalar', strides };
    const vector = innermost?.[name] ?? false;
    let stride = vector ? n / width : 1;
    for (let d = rank - 2; d >= 0; d--) {
      if (!runs[d][name]) continue;
      strides[d] = stride;
      stride *= runs[d].size;
    }
    return { form: vector ? 'vector' : 'splat', strides };
  };
  const x = operand('x');
  const y = operand('y');
  const count = Math.ceil(sizeOf(output) / width);
  const size = (d: number): number => (d < rank - 1 ? runs[d].size : 1);
  const [x0, x1, x2, x3] = x.strides;
  const [y0, y1, y2, y3] = y.strides;
  return {
    form: { width, rank, x: x.form, y: y.form },
    count,
    params: {
      count,
      n: Math.max(1, n / width),
      size1: size(1),
      size2: size(2),
      size3: size(3),
      x0,
      x1,
      x2,
      x3,
      y0,
      y1,
      y2,
      y3,
    },
  };
}

/** The public function of an op. */
function binary(name: BinaryFunction): ((a: Tensor, b: Tensor) => Tensor) & OpInfo {
  const op = defineOp({
    name,
    shape: ([a, b]: readonly [Tensor, Tensor], _: undefined) => {
      if (a.dtype !== 'f32') shapeError(name, 'first operand', 'dtype f32', a.dtype);
      if (b.dtype !== 'f32') shapeError(name, 'second operand', 'dtype f32', b.dtype);
      const shape = broadcastShapes(name, a.shape, b.shape);
      if (mergedRuns(shape, a.shape, b.shape).length > MAX_RANK) {
        shapeError(name, 'operands', `at most ${MAX_RANK} runs of broadcast dimensions`, shape);
      }
      return { shape };
    },
    forward: ({ device, inputs: [a, b], output }) => {
      const { form, params, count } = launchOf(output.shape, a.shape, b.shape);
      const { lanes, grid } = elementwise(device, count);
      device.run(binaryKernel(name, { ...form, lanes }), params, { a, b, output }, grid);
    },
    backward: ({ device, inputs: [a, b], output, gradient: upstream, needs }) => {
      const { form, params, count } = launchOf(output.shape, a.shape, b.shape);
      const { lanes, grid } = elementwise(device, count);
      const gradientOf = (operand: 'x' | 'y'): Tensor => {
        if (name === 'add' || (name === 'sub' && operand === 'x')) return upstream;
        const gradient = device.empty(output.shape);
        device.run(binaryGradientKernel(name, operand, { ...form, lanes }), params, { a, b, upstream, gradient }, grid);
        return gradient;
      };
      return [needs[0] ? sumTo(gradientOf('x'), a.shape) : null, needs[1] ? sumTo(gradientOf('y'), b.shape) : null];
    },
  });
  return opFunction(op, (a: Tensor, b: Tensor): Tensor => op([a, b], undefined));
}

/** a + b. Shapes broadcast. */
export const add = binary('add');
/** a - b. Shapes broadcast. */
export const sub = binary('sub');
/** a b, element by element. Shapes broadcast. */
export const mul = binary('mul');
/** a / b, element by element. Shapes broadcast. */
export const div = binary('div');
/** The larger of a and b. Shapes broadcast. Where a = b, each gets half of the gradient, as in PyTorch. */
export const maximum = binary('maximum');
/** The smaller of a and b. Shapes broadcast. Where a = b, each gets half of the gradient, as in PyTorch. */
export const minimum = binary('minimum');
