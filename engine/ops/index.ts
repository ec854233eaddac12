/**
 * The public ops, one line for each family. A family file exports its public functions and option types, and nothing
 * else. Code that several families share is in files that are not listed here.
 */
export * from './attention.ts';
export * from './binary.ts';
export * from './conv2d.ts';
export * from './group-norm.ts';
export * from './images.ts';
export * from './layer-norm.ts';
export * from './layout.ts';
export * from './matmul.ts';
export * from './pooling.ts';
export * from './reduce.ts';
export * from './reshape.ts';
export * from './resize.ts';
export * from './scale-shift.ts';
export * from './softmax.ts';
export * from './unary.ts';
export type { FocalOptions, MatchingWeights, PaddedTargets } from './detection/arguments.ts';
export * from './detection/assignment.ts';
export * from './detection/boxes.ts';
export * from './detection/dynamic-interaction.ts';
export * from './detection/experts.ts';
export * from './detection/losses.ts';
export * from './detection/roi-align.ts';
export * from './detection/set-loss.ts';
