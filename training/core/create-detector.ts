/** Creates the detector of a configuration. No other file of training/ names a model class. */
import type { Device } from '../../engine/index.ts';
import { DynamicSparseRCNN, type ModelConfig } from '../../model/index.ts';
import type { Detector } from './detector.ts';

/** @param seed of the initial weights: the same seed gives the same weights on every adapter */
export function createDetector(device: Device, config: ModelConfig, seed = 0): Detector {
  return new DynamicSparseRCNN(device, config, seed);
}
