/** Every op by its name. The test table must have cases for each of them, so an op without a test does not compile. */
import { absOp, affineOp, expOp, logOp, reluOp, sigmoidOp, sqrtOp, squareOp, tanhOp } from './unary.ts';
import { reshapeOp } from './reshape.ts';
import { conv2dOp } from './conv2d.ts';
import { maxPool2dOp } from './pooling.ts';
import { resizeBilinearOp, upsampleNearestOp } from './resize.ts';
import { linearOp, matmulOp } from './matmul.ts';
import { mixExpertsOp } from './detection/experts.ts';
import { roiAlignOp } from './detection/roi-align.ts';
import { multiheadAttentionOp } from './attention.ts';
import { groupNormOp, layerNormOp, scaleShiftOp } from './norm.ts';
import { boxGiouOp, boxIouOp, decodeBoxesOp, initialBoxesOp, l1LossOp, sigmoidFocalLossOp } from './detection/boxes.ts';
import { softmaxOp } from './softmax.ts';
import { addOp, divOp, maximumOp, minimumOp, mulOp, subOp } from './binary.ts';
import { maxOp, meanOp, sumOp } from './reduce.ts';
import { concatOp, expandOp, gatherOp, permuteOp, sliceOp } from './layout.ts';
import { dynamicInteractionOp } from './detection/dynamic-interaction.ts';
import { setLossOp } from './detection/set-loss.ts';

export const ops = {
  abs: absOp,
  affine: affineOp,
  exp: expOp,
  log: logOp,
  relu: reluOp,
  sigmoid: sigmoidOp,
  sqrt: sqrtOp,
  square: squareOp,
  tanh: tanhOp,
  reshape: reshapeOp,
  conv2d: conv2dOp,
  maxPool2d: maxPool2dOp,
  upsampleNearest: upsampleNearestOp,
  resizeBilinear: resizeBilinearOp,
  linear: linearOp,
  matmul: matmulOp,
  mixExperts: mixExpertsOp,
  roiAlign: roiAlignOp,
  multiheadAttention: multiheadAttentionOp,
  layerNorm: layerNormOp,
  groupNorm: groupNormOp,
  scaleShift: scaleShiftOp,
  decodeBoxes: decodeBoxesOp,
  initialBoxes: initialBoxesOp,
  boxIou: boxIouOp,
  boxGiou: boxGiouOp,
  sigmoidFocalLoss: sigmoidFocalLossOp,
  l1Loss: l1LossOp,
  softmax: softmaxOp,
  add: addOp,
  sub: subOp,
  mul: mulOp,
  div: divOp,
  maximum: maximumOp,
  minimum: minimumOp,
  sum: sumOp,
  mean: meanOp,
  max: maxOp,
  permute: permuteOp,
  slice: sliceOp,
  expand: expandOp,
  concat: concatOp,
  gather: gatherOp,
  dynamicInteraction: dynamicInteractionOp,
  setLoss: setLossOp,
} as const;

export type OpName = keyof typeof ops;
