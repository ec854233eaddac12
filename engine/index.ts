/** The engine's public surface. ops/index.ts lists the ops. */
export { Device, type DeviceInfo, type MemoryReport } from './device/device.ts';
export type { RunningProfile } from './device/device-profiler.ts';
export { UnsupportedOptionError, type DeviceOptions } from './device/options.ts';
export type { ForcedVariants } from './core/variants.ts';
export type {
  Calibration,
  DispatchRow,
  HostSpan,
  KernelSummary,
  Occupancy,
  Profile,
  ProfileDetail,
  ProfileOptions,
  ProfileTiming,
  Roofline,
  TimeSpan,
  TraceEvent,
} from './profiling/profile.ts';
export {
  parseTunedChoices,
  TUNING_VERSION,
  TuningError,
  type TunedChoice,
  type TunedChoices,
} from './tuning/choices.ts';
export type { Candidate, TuningProblem } from './tuning/problem.ts';
export { Tuner, type TunedClass, type TuneOptions, type TuningProgress } from './tuning/tuner.ts';
export { Tensor, type DType, type TensorData, type TensorDevice } from './core/tensor.ts';
export { backward, checkpoint } from './core/autograd.ts';
export { defineOp, type Op, type OpDefinition } from './core/op.ts';
export { ShapeError, type Shape } from './core/shape.ts';
export { philox, Random } from './core/random.ts';
export * from './ops/index.ts';
export type { Capture, CaptureReport } from './device/capture.ts';
export { CaptureCache, type CaptureCacheOptions } from './device/capture-cache.ts';
export { toHalf } from './weights/elements.ts';
export { WeightsError } from './weights/errors.ts';
export {
  readSafetensors,
  writeSafetensors,
  type SafetensorData,
  type SafetensorEntry,
  type SafetensorsFile,
} from './weights/safetensors.ts';
export {
  readCheckpoint,
  type CheckpointFile,
  type CheckpointFormat,
  type CheckpointTensor,
  type ReadCheckpointOptions,
} from './weights/formats.ts';
export { writeDetectron2Pickle, writeTorchZip } from './weights/pytorch-writer.ts';
export { OutOfMemoryError } from './gpu/out-of-memory.ts';
export { AdamW, type AdamWOptions } from './optim/adamw.ts';
export { SGD, type SGDOptions } from './optim/sgd.ts';
export { averageDecayAt, type OptimizerOptions, type OptimizerState, type StepOptions } from './optim/optimizer.ts';
export { FlatParameters, type NamedParameter, type StoredValues } from './optim/flat-parameters.ts';
export {
  cosineLearningRateAt,
  learningRateAt,
  type WarmupCosineSchedule,
  type WarmupStepSchedule,
} from './optim/schedules.ts';
