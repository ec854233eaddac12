/**
 * Multi-level RoIAlign [Mask R-CNN, arXiv 1703.06870] over P2..P5. The size of a box decides its level [FPN 4.2].
 */
import { roiAlign, type Tensor } from '../engine/index.ts';
import type { ModelConfig } from './config.ts';

/** Strides of P2..P5: pixels of the padded image per cell. */
const PYRAMID_STRIDES = [4, 8, 16, 32] as const;

/** pyramid: [B, h, w, d] each; boxes: [B, N, 4] xyxy pixels -> [B * N, r * r, d]. Boxes get no gradient. */
export function poolRois(pyramid: readonly Tensor[], boxes: Tensor, config: ModelConfig): Tensor {
  return roiAlign(pyramid, boxes, {
    resolution: config.poolerResolution,
    samplingRatio: config.poolerSamplingRatio,
    strides: PYRAMID_STRIDES,
  });
}
