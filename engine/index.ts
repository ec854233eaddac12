/** The engine's public surface, all of it. */
export { Device, type DeviceInfo, type MemoryReport, type RunningProfile } from './device/device.ts';
export { UnsupportedOptionError, type DeviceOptions, type ForcedVariants } from './device/options.ts';
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
  Tuner,
  TUNING_VERSION,
  TuningError,
  type Candidate,
  type TunedChoice,
  type TunedChoices,
  type TunedClass,
  type TuneOptions,
  type TuningProblem,
  type TuningProgress,
} from './tuning/tuner.ts';
export { Tensor, type DType, type TensorData } from './core/tensor.ts';
export { backward, checkpoint } from './core/autograd.ts';
export { defineOp, type Op, type OpDefinition } from './core/op.ts';
export { ShapeError, type Shape } from './core/shape.ts';
export { philox, Random } from './core/random.ts';
export * from './ops/index.ts';
export { CaptureCache, type Capture, type CaptureCacheOptions, type CaptureReport } from './device/capture.ts';
export {
  readSafetensors,
  writeSafetensors,
  WeightsError,
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
export { AdamW, type AdamWOptions } from './optim/adamw.ts';
export { SGD, type SGDOptions } from './optim/sgd.ts';
export type { OptimizerState, StepOptions } from './optim/optimizer.ts';
export { FlatParameters, type NamedParameter, type StoredValues } from './optim/flat-parameters.ts';
export { learningRateAt, type WarmupStepSchedule } from './optim/schedules.ts';
