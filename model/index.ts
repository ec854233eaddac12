/** The model's public surface. */
export { DynamicSparseRCNN, type Predictions, type Trace } from './dynamic-sparse-rcnn.ts';
export {
  ConfigError,
  MODEL_PRESETS,
  PAPER_R50,
  validateModelConfig,
  type ModelConfig,
  type PresetName,
} from './config.ts';
export { DeviceBatch, batchShape, shapeKey, type BatchShape, type BatchValues } from './batch.ts';
export type { Detections } from './boxes.ts';
export type { Losses } from './criterion.ts';
export { MATCHER_NAMES, MATCHERS, type MatcherName } from './matching.ts';
export type { Matcher } from './matchers/matcher.ts';
export type { ImageTargets } from './targets.ts';
export { byOurNames, type CheckpointSource } from './checkpoint-names.ts';
export {
  exportNames,
  mapNames,
  type MapNamesOptions,
  type MappedWeights,
  type NameTable,
} from './checkpoints.ts';
export { countFlops, type ModelPart } from './flops.ts';
