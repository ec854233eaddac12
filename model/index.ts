/** The model's public surface. */
export { DynamicSparseRCNN, type Predictions, type Trace } from './detector.ts';
export {
  ConfigError,
  MODEL_PRESETS,
  PAPER_R50,
  validateModelConfig,
  type ModelConfig,
  type PresetName,
} from './config.ts';
export { Batch, batchShape, shapeKey, type BatchShape } from './batch.ts';
export type { Detections } from './boxes.ts';
export type { Losses } from './criterion.ts';
export type { ImageTargets } from './matching.ts';
export {
  exportNames,
  mapNames,
  type CheckpointSource,
  type MapNamesOptions,
  type MappedWeights,
  type NameTable,
} from './checkpoints.ts';
export { countFlops, type ModelPart } from './flops.ts';
