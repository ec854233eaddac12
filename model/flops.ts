/**
 * Floating-point operations of a forward pass, counted from the configuration: two per multiply-add of convolutions,
 * linear layers and batched products. Norms, activations, resizing, pooling and matching are ignored: memory traffic
 * dominates their cost.
 */
import type { ModelConfig } from './config.ts';
import { expertInputs } from './proposals.ts';
import { expansionOf, RESNET_BLOCKS } from './resnet.ts';

export type ModelPart =
  | 'backbone'
  | 'pyramid'
  | 'proposals'
  | 'attention'
  | 'dynamic interaction'
  | 'feed-forward and towers';

const half = (size: number): number => Math.ceil(size / 2);

/** FLOPs of a convolution with an output of h x w. */
const conv = (h: number, w: number, from: number, to: number, kernel: number): number =>
  2 * h * w * from * to * kernel * kernel;

/** Size of C2, C3, C4 or C5. */
interface Level {
  readonly h: number;
  readonly w: number;
  readonly channels: number;
}

/** FLOPs of the ResNet, and the sizes of C2..C5. */
function countBackbone(
  { stemChannels, depth }: ModelConfig,
  height: number,
  width: number,
): { readonly backbone: number; readonly levels: readonly Level[] } {
  const expansion = expansionOf(depth);
  let [h, w] = [half(height), half(width)];
  let backbone = conv(h, w, 3, stemChannels, 7);
  [h, w] = [half(h), half(w)];
  const levels: Level[] = [];
  let inputs = stemChannels;
  RESNET_BLOCKS[depth].forEach((blocks, i) => {
    const middle = stemChannels * 2 ** i,
      outputs = middle * expansion;
    for (let j = 0; j < blocks; j++) {
      const [ih, iw] = [h, w];
      if (j === 0 && i > 0) [h, w] = [half(h), half(w)];
      if (expansion === 4)
        backbone += conv(ih, iw, inputs, middle, 1) + conv(h, w, middle, middle, 3) + conv(h, w, middle, outputs, 1);
      else backbone += conv(h, w, inputs, outputs, 3) + conv(h, w, outputs, outputs, 3);
      if (j === 0 && (i > 0 || inputs !== outputs)) backbone += conv(h, w, inputs, outputs, 1);
      inputs = outputs;
    }
    levels.push({ h, w, channels: outputs });
  });
  return { backbone, levels };
}

/** FLOPs of a forward pass on one image of the given size (pixels, multiples of 32), by part of the model. */
export function countFlops(config: ModelConfig, height: number, width: number): Record<ModelPart, number> {
  const { hiddenDim: d, dynamicDim: k, numProposals: n, numStages, poolerResolution: r } = config;
  const { backbone, levels } = countBackbone(config, height, width);

  const pyramid = levels.reduce(
    (sum, level) => sum + conv(level.h, level.w, level.channels, d, 1) + conv(level.h, level.w, d, d, 3),
    0,
  );

  let proposals = 0;
  if (config.dpg !== 'none') {
    if (config.dpg === 'staircase')
      levels.forEach((level, i) => {
        proposals += 2 * half(level.h) * half(level.w) * d * (i + 1) * 9;
      });
    const { expertHiddenDim, numExperts } = config;
    proposals +=
      2 * (expertInputs(config) * expertHiddenDim + expertHiddenDim * numExperts * n) + 2 * numExperts * n * (d + 4);
  }

  const linear = (from: number, to: number): number => 2 * n * from * to;
  const attention = linear(d, 3 * d) + linear(d, d) + 2 * 2 * n * n * d;
  const interaction = linear(d, 2 * d * k) + 2 * 2 * n * r * r * d * k + linear(d * r * r, d);
  const rest =
    2 * linear(d, config.feedforwardDim) +
    (config.numClassLayers + config.numRegressionLayers) * linear(d, d) +
    linear(d, config.numClasses) +
    linear(d, 4);
  return {
    backbone,
    pyramid,
    proposals,
    attention: numStages * attention,
    'dynamic interaction': numStages * interaction,
    'feed-forward and towers': numStages * rest,
  };
}
