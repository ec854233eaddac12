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
export { CaptureCache, type Capture, type CaptureCacheOptions, type CaptureReport } from './device/capture.ts';
export { abs, affine, exp, log, relu, sigmoid, sqrt, square, tanh } from './ops/unary.ts';
export { reshape } from './ops/reshape.ts';
export { conv2d, type Conv2dEpilogue, type Conv2dOptions } from './ops/conv2d.ts';
export { maxPool2d, type MaxPool2dOptions } from './ops/pooling.ts';
export { resizeBilinear, upsampleNearest } from './ops/resize.ts';
export {
  normalizeImages,
  normalizePacked,
  packedWords,
  packImages,
  paddedSize,
  type ImageData,
  type NormalizeOptions,
} from './ops/images.ts';
export { linear, matmul, type LinearOptions, type MatmulOptions } from './ops/matmul.ts';
export { mixExperts } from './ops/detection/experts.ts';
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
export { roiAlign, type RoiAlignOptions } from './ops/detection/roi-align.ts';
export { multiheadAttention } from './ops/attention.ts';
export { groupNorm, layerNorm, scaleShift } from './ops/norm.ts';
export {
  boxGiou,
  boxIou,
  decodeBoxes,
  initialBoxes,
  l1Loss,
  sigmoidFocalLoss,
  type FocalOptions,
} from './ops/detection/boxes.ts';
export { softmax } from './ops/softmax.ts';
export { add, div, maximum, minimum, mul, sub } from './ops/binary.ts';
export { AdamW, type AdamWOptions } from './optim/adamw.ts';
export { SGD, type SGDOptions } from './optim/sgd.ts';
export type { OptimizerState, StepOptions } from './optim/optimizer.ts';
export { FlatParameters, type NamedParameter, type StoredValues } from './optim/flat-parameters.ts';
export { learningRateAt, type WarmupStepSchedule } from './optim/schedules.ts';
export { max, mean, sum } from './ops/reduce.ts';
export {
  assignLinearSum,
  countPositives,
  linearSumAssignment,
  matchingCosts,
  transportAssignment,
  transportSupply,
  type MatchingWeights,
  type PaddedTargets,
  type SupplyOptions,
  type TransportOptions,
} from './ops/detection/assignment.ts';
export { concat, expand, gather, permute, slice, stack, transpose } from './ops/layout.ts';
export { dynamicInteraction } from './ops/detection/dynamic-interaction.ts';
export { setLoss } from './ops/detection/set-loss.ts';
