/** The set prediction loss of all stages as one op: focal loss over all logits, L1 and GIoU over matched boxes. */
import { itemGrid, linearGrid } from '../../../kernels/kernel.ts';
import {
  PROPOSALS_PER_GROUP,
  setLossBoxesGradientKernel,
  setLossLogitsGradientKernel,
  setLossPartialsKernel,
  setLossTotalsKernel,
} from '../../../kernels/set-loss.ts';
import { defineOp, opFunction } from '../../core/op.ts';
import { shapeError, type Shape } from '../../core/shape.ts';
import type { DType, Tensor } from '../../core/tensor.ts';
import {
  checkFocal,
  checksOf,
  checkTargets,
  type MatchingWeights,
  type PaddedTargets,
  type Predictions,
} from './arguments.ts';

type Inputs = readonly [
  logits: Tensor,
  boxes: Tensor,
  matched: Tensor,
  positives: Tensor,
  labels: Tensor,
  targetBoxes: Tensor,
  sizes: Tensor,
];

/**
 * Params of the kernels: `rows` are the B * N proposals of a stage, `capacity` the M rows of an image's ground truths.
 */
function sizesOf([logits, , , , labels]: Inputs): {
  stages: number;
  proposals: number;
  classes: number;
  rows: number;
  capacity: number;
} {
  const [stages, images, proposals, classes] = logits.shape;
  return { stages, proposals, classes, rows: images * proposals, capacity: labels.shape[1] };
}

const setLossOp = defineOp({
  name: 'setLoss',
  shape: ([logits, boxes, matched, positives, labels, targetBoxes, sizes]: Inputs, weights: MatchingWeights) => {
    if (logits.rank !== 4) shapeError('setLoss', 'logits', '[T, B, N, C]', logits.shape);
    const [stages, images, proposals] = logits.shape;
    const expected: readonly (readonly [string, Tensor, Shape, DType])[] = [
      ['logits', logits, logits.shape, 'f32'],
      ['boxes', boxes, [stages, images, proposals, 4], 'f32'],
      ['matched', matched, [stages, images, proposals], 'i32'],
      ['positives', positives, [stages], 'f32'],
      ['targets.labels', labels, [images, labels.shape[1]], 'u32'],
      ['targets.boxes', targetBoxes, [images, labels.shape[1], 4], 'f32'],
      ['targets.sizes', sizes, [images, 4], 'f32'],
    ];
    const check = checksOf('setLoss');
    for (const [argument, x, shape, dtype] of expected) {
      check(argument, x, shape, dtype);
      if (x.requiresGrad && x !== logits && x !== boxes)
        shapeError('setLoss', argument, 'a constant (it gets no gradient)', 'a tensor that requires a gradient');
    }
    checkFocal('setLoss', weights);
    return { shape: [stages, 3] };
  },
  forward: ({ device, inputs, attributes: { alpha, gamma, classWeight, l1Weight, giouWeight }, output }) => {
    const [logits, boxes, matched, positives, labels, targetBoxes, sizes] = inputs;
    const { stages, ...dimensions } = sizesOf(inputs);
    const groups = Math.ceil(dimensions.rows / PROPOSALS_PER_GROUP);
    const partials = device.empty([stages, groups, 4]);
    device.run(
      setLossPartialsKernel(),
      { stages, groups, ...dimensions, alpha, gamma },
      { logits, boxes, matched, labels, targetBoxes, sizes, partials },
      linearGrid(stages * groups),
    );
    device.run(
      setLossTotalsKernel(),
      { stages, groups, classWeight, l1Weight, giouWeight },
      { partials, positives, parts: output },
      linearGrid(stages),
    );
  },
  backward: ({
    device,
    inputs,
    attributes: { alpha, gamma, classWeight, l1Weight, giouWeight },
    gradient: upstream,
    needs,
  }) => {
    const [logits, boxes, matched, positives, labels, targetBoxes, sizes] = inputs;
    const { rows, proposals, classes, capacity } = sizesOf(inputs);
    const logitsGradient = (): Tensor => {
      const gradient = device.empty(logits.shape);
      const params = { count: logits.size, rows, proposals, classes, capacity, alpha, gamma, classWeight };
      device.run(
        setLossLogitsGradientKernel(),
        params,
        { logits, matched, labels, positives, upstream, gradient },
        itemGrid(logits.size),
      );
      return gradient;
    };
    const boxesGradient = (): Tensor => {
      const gradient = device.empty(boxes.shape);
      const params = { count: boxes.size / 4, rows, proposals, capacity, l1Weight, giouWeight };
      device.run(
        setLossBoxesGradientKernel(),
        params,
        { boxes, matched, targetBoxes, sizes, positives, upstream, gradient },
        itemGrid(boxes.size / 4),
      );
      return gradient;
    };
    return [needs[0] ? logitsGradient() : null, needs[1] ? boxesGradient() : null, null, null, null, null, null];
  },
});

/**
 * Loss of every stage [Sparse R-CNN 3.1]: the sigmoid focal loss summed over all N * C logits of all images; over
 * matched proposals, L1 of the boxes divided by the image's size, and 1 - GIoU. Each is weighted and divided by the
 * stage's positives. The sums have a fixed order.
 *
 * @param predictions logits [T, B, N, C]; boxes [T, B, N, 4] xyxy in pixels
 * @param assignment  matched i32 [T, B, N]: the ground truth of each proposal, negative for none; positives f32 [T]
 * @returns           [T, 3]: class, L1, GIoU
 * @throws ShapeError or RangeError where an argument does not fit
 */
export const setLoss = opFunction(
  setLossOp,
  (
    { logits, boxes }: Predictions,
    { matched, positives }: { readonly matched: Tensor; readonly positives: Tensor },
    targets: PaddedTargets,
    weights: MatchingWeights,
  ): Tensor => {
    checkTargets('setLoss', targets);
    return setLossOp([logits, boxes, matched, positives, targets.labels, targets.boxes, targets.sizes], weights);
  },
);
