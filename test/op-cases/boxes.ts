/** Cases of box coding, overlaps, focal loss and L1. */
import fc from 'fast-check';
import { boxGiou, boxIou, decodeBoxes, initialBoxes, l1Loss, Random, sigmoidFocalLoss } from '../../engine/index.ts';
import type { OpName } from '../../engine/ops/table.ts';
import {
  integerInput,
  ndarray,
  randomInput,
  sampleCases,
  sizeOf,
  type NdArray,
  type OpCase,
  type OpInput,
} from '../op-harness.ts';

/** xyxy boxes with sides of 5 to 60 pixels and corners in 0 .. 100. */
export function boxesInput(shape: readonly number[], seed: number, differentiate = true): OpInput {
  const random = new Random(seed);
  const data = new Float64Array(sizeOf(shape));
  for (let i = 0; i < data.length; i += 4) {
    const [x, y, w, h] = [
      random.uniform() * 40,
      random.uniform() * 40,
      5 + 55 * random.uniform(),
      5 + 55 * random.uniform(),
    ];
    data.set([x, y, x + w, y + h].map(Math.fround), i);
  }
  return { shape, data, differentiate };
}

/** A reference that maps the last dimension (4) of all inputs to 4 numbers. */
function boxwise(f: (...boxes: number[][]) => number[]): (inputs: readonly NdArray[]) => NdArray {
  return (inputs) => {
    const data: number[] = [];
    for (let i = 0; i < inputs[0].data.length; i += 4)
      data.push(...f(...inputs.map((x) => [...x.data.subarray(i, i + 4)])));
    return ndarray(inputs[0].shape, data);
  };
}

/** Bounds of dw and dh: Sparse R-CNN's and mmdetection's. */
const SPARSE_RCNN = { low: -Infinity, high: Math.log(100000 / 16) };
const MMDETECTION = { low: Math.log(16 / 1000), high: Math.log(1000 / 16) };

function decode(
  [dx, dy, dw, dh]: number[],
  [x1, y1, x2, y2]: number[],
  { low, high }: typeof SPARSE_RCNN = SPARSE_RCNN,
): number[] {
  const w = x2 - x1,
    h = y2 - y1;
  const cx = x1 + w / 2 + (dx / 2) * w,
    cy = y1 + h / 2 + (dy / 2) * h;
  const nw = Math.exp(Math.max(low, Math.min(dw, high))) * w,
    nh = Math.exp(Math.max(low, Math.min(dh, high))) * h;
  return [cx - nw / 2, cy - nh / 2, cx + nw / 2, cy + nh / 2];
}

function decodeCase(name: string, shape: readonly number[], seed: number, scale = 0.5): OpCase {
  return {
    name,
    inputs: [randomInput(shape, seed, { scale }), boxesInput(shape, seed + 1)],
    run: ([deltas, boxes]) => decodeBoxes(deltas, boxes),
    reference: boxwise((deltas, boxes) => decode(deltas, boxes)),
  };
}

/** mmdetection's DeltaXYWHBBoxCoder clamps on both sides. */
function mmdetectionDecodeCase(shape: readonly number[], seed: number, scale: number): OpCase {
  return {
    name: `mmdetection's bounds, deltas of ${scale}`,
    inputs: [randomInput(shape, seed, { scale }), boxesInput(shape, seed + 1)],
    run: ([deltas, boxes]) =>
      decodeBoxes(deltas, boxes, { minLogScale: MMDETECTION.low, maxLogScale: MMDETECTION.high }),
    reference: boxwise((deltas, boxes) => decode(deltas, boxes, MMDETECTION)),
  };
}

function initialCase(b: number, n: number, seed: number): OpCase {
  const sizes = boxesInput([b, 4], seed + 1, false);
  return {
    name: `[${b}, ${n}, 4]`,
    inputs: [randomInput([b, n, 4], seed, { scale: 0.2, shift: 0.5 }), sizes],
    run: ([boxes, whwh]) => initialBoxes(boxes, whwh),
    reference: ([boxes, whwh]) =>
      ndarray(
        boxes.shape,
        boxes.data.map((_, i) => {
          const at = i - (i % 4),
            axis = i % 2,
            sign = i % 4 < 2 ? -0.5 : 0.5;
          return (
            (boxes.data[at + axis] + sign * boxes.data[at + 2 + axis]) *
            whwh.data[Math.floor(i / (4 * n)) * 4 + (i % 4)]
          );
        }),
      ),
  };
}

/** IoU and GIoU of two boxes. */
export function overlaps(a: ArrayLike<number>, b: ArrayLike<number>): { iou: number; giou: number } {
  const side = (axis: number): number => Math.max(0, Math.min(a[axis + 2], b[axis + 2]) - Math.max(a[axis], b[axis]));
  const area = (x: ArrayLike<number>): number => (x[2] - x[0]) * (x[3] - x[1]);
  const inter = side(0) * side(1),
    union = area(a) + area(b) - inter;
  const hull = (Math.max(a[2], b[2]) - Math.min(a[0], b[0])) * (Math.max(a[3], b[3]) - Math.min(a[1], b[1]));
  return { iou: inter / union, giou: inter / union - (hull - union) / hull };
}

function overlapCases(op: typeof boxIou, kind: 'iou' | 'giou'): OpCase[] {
  const make = (name: string, a: OpInput, b: OpInput): OpCase => ({
    name,
    inputs: [a, b],
    run: ([x, y]) => op(x, y),
    reference: ([x, y]) => {
      const n = x.shape[x.shape.length - 2],
        m = y.shape[y.shape.length - 2];
      const shape = [...x.shape.slice(0, -1), m];
      return ndarray(
        shape,
        Array.from({ length: sizeOf(shape) }, (_, at) => {
          const row = Math.floor(at / m),
            column = Math.floor(row / n) * m + (at % m);
          return overlaps(x.data.subarray(row * 4, row * 4 + 4), y.data.subarray(column * 4, column * 4 + 4))[kind];
        }),
      );
    },
  });
  const random = (leading: readonly number[], n: number, m: number, seed: number): OpCase =>
    make(
      `[${[...leading, n, m].join(', ')}]`,
      boxesInput([...leading, n, 4], seed),
      boxesInput([...leading, m, 4], seed + 1),
    );
  const whole: OpInput = { shape: [1, 4], data: Float64Array.of(0, 0, 96, 64) };
  const atTheEdge: OpInput = { shape: [3, 4], data: Float64Array.of(0, 10, 50, 64, 20, 0, 96, 30, 0, 0, 96, 64) };
  const apart: OpInput = { shape: [2, 4], data: Float64Array.of(100, 70, 120, 90, 100, 20, 120, 40) };
  return [
    random([], 1, 1, 1),
    random([2], 3, 5, 2),
    random([], 70, 9, 3),
    random([2, 2], 0, 3, 4),
    random([2], 5, 0, 5),
    make('whole image against boxes at its edge (derivatives at ties)', whole, atTheEdge),
    make('disjoint boxes', whole, apart),
    ...sampleCases(
      2,
      fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 20 })),
      ([b, n, m], i) => random([b], n, m, 20 + i),
    ),
  ];
}

/** log(1 + exp(x)) */
export const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** Focal loss of one logit with a target in 0 .. 1. */
export function focal(x: number, target: number, alpha: number, gamma: number): number {
  const positive = alpha * Math.exp(-gamma * softplus(x)) * softplus(-x);
  const negative = (1 - alpha) * Math.exp(-gamma * softplus(-x)) * softplus(x);
  return target * positive + (1 - target) * negative;
}

function focalCase(
  name: string,
  logits: OpInput,
  targets: OpInput,
  { alpha, gamma }: { readonly alpha: number; readonly gamma: number },
): OpCase {
  return {
    name,
    inputs: [logits, { ...targets, differentiate: false }],
    run: ([x, t]) => sigmoidFocalLoss(x, t, { alpha, gamma }),
    reference: ([x, t]) => {
      const classes = x.shape[x.shape.length - 1];
      const target = (i: number): number =>
        targets.dtype ? Number(t.data[Math.floor(i / classes)] === i % classes) : t.data[i];
      return ndarray(
        x.shape,
        x.data.map((value, i) => focal(value, target(i), alpha, gamma)),
      );
    },
  };
}

/** Logits far from 0 and near 0, each in a case of its own, so that the relative error of tiny losses counts. */
const extremes = [-80, -25, -9, -1e-3, 0, 2, 17, 40, 85].flatMap((x) =>
  [0, 1].map((target) =>
    focalCase(
      `logit ${x}, target ${target}`,
      { shape: [1], data: Float64Array.of(Math.fround(x)) },
      { shape: [1], data: Float64Array.of(target) },
      { alpha: 0.25, gamma: 0.5 },
    ),
  ),
);

export const boxCases = {
  decodeBoxes: [
    decodeCase('one box', [4], 1),
    decodeCase('[2, 65, 4]', [2, 65, 4], 2),
    decodeCase('none', [0, 4], 3),
    decodeCase('dw and dh beyond the clamp', [20, 4], 5, 12),
    mmdetectionDecodeCase([20, 4], 7, 0.5),
    mmdetectionDecodeCase([40, 4], 9, 6),
    ...sampleCases(2, fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 3 }), (shape, i) =>
      decodeCase(`[${shape}, 4]`, [...shape, 4], 30 + i),
    ),
  ],
  initialBoxes: [initialCase(1, 1, 1), initialCase(3, 67, 2), initialCase(2, 0, 3)],
  boxIou: overlapCases(boxIou, 'iou'),
  boxGiou: overlapCases(boxGiou, 'giou'),
  sigmoidFocalLoss: [
    focalCase(
      'one-hot targets',
      randomInput([3, 7, 5], 1, { scale: 3 }),
      { shape: [3, 7, 5], data: Float64Array.from({ length: 105 }, (_, i) => Number(i % 4 === 0)) },
      { alpha: 0.25, gamma: 2 },
    ),
    focalCase('class numbers, some outside', randomInput([2, 40, 3], 2, { scale: 3 }), integerInput([2, 40], 5, 3), {
      alpha: 0.25,
      gamma: 2,
    }),
    focalCase('gamma 0', randomInput([8, 3], 4, { scale: 3 }), integerInput([8], 4, 5), { alpha: 0.4, gamma: 0 }),
    focalCase('gamma 1.3', randomInput([8, 3], 6, { scale: 3 }), integerInput([8], 4, 7), { alpha: 0.9, gamma: 1.3 }),
    focalCase('gamma 5', randomInput([8, 3], 8, { scale: 3 }), integerInput([8], 4, 9), { alpha: 0.25, gamma: 5 }),
    focalCase('no rows', randomInput([0, 3], 10), integerInput([0], 4, 11), { alpha: 0.25, gamma: 2 }),
    ...extremes,
  ],
  l1Loss: [[1], [5], [0, 4], [33, 9]].map(
    (shape, i): OpCase => ({
      name: `[${shape.join(', ')}]`,
      inputs: [randomInput(shape, i), randomInput(shape, i + 10)],
      run: ([a, b]) => l1Loss(a, b),
      reference: ([a, b]) =>
        ndarray(
          a.shape,
          a.data.map((x, at) => Math.abs(x - b.data[at])),
        ),
    }),
  ),
} satisfies Partial<Record<OpName, OpCase[]>>;
