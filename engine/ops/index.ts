/** Every op by its name. The test table must have cases for each of them, so an op without a test does not compile. */
import { absOp, affineOp, expOp, logOp, reluOp, sigmoidOp, sqrtOp, squareOp, tanhOp } from './unary.ts';
import { reshapeOp } from './reshape.ts';
import { conv2dOp } from './conv2d.ts';
import { linearOp, matmulOp } from './matmul.ts';
import { roiAlignOp } from './roi-align.ts';
import { layerNormOp } from './norm.ts';
import { multiheadAttentionOp } from './attention.ts';

export const ops = {
  abs: absOp, affine: affineOp, exp: expOp, log: logOp, relu: reluOp, sigmoid: sigmoidOp, sqrt: sqrtOp, square: squareOp, tanh: tanhOp,
  reshape: reshapeOp,
  conv2d: conv2dOp,
  linear: linearOp, matmul: matmulOp,
  roiAlign: roiAlignOp,
  layerNorm: layerNormOp,
  multiheadAttention: multiheadAttentionOp,
} as const;

export type OpName = keyof typeof ops;
