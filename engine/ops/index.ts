/** Every op by its name. The test table must have cases for each of them, so an op without a test does not compile. */
import { absOp, affineOp, expOp, logOp, reluOp, sigmoidOp, sqrtOp, squareOp, tanhOp } from './unary.ts';
import { reshapeOp } from './reshape.ts';
import { roiAlignOp } from './roi-align.ts';
import { layerNormOp } from './norm.ts';

export const ops = {
  abs: absOp, affine: affineOp, exp: expOp, log: logOp, relu: reluOp, sigmoid: sigmoidOp, sqrt: sqrtOp, square: squareOp, tanh: tanhOp,
  reshape: reshapeOp,
  roiAlign: roiAlignOp,
  layerNorm: layerNormOp,
} as const;

export type OpName = keyof typeof ops;
