/**
 * Initial proposals: learned boxes and features [SR 3.2], or dynamic proposal generation [DSR 3.3]. The latter mixes
 * experts with weights that depend on the image.
 *
 * Glossary: B images, N proposals, E experts, d width. Boxes here are (cx, cy, w, h), normalized to the unpadded image.
 */
import {
  concat,
  expand,
  mean,
  mixExperts,
  mul,
  reshape,
  resizeBilinear,
  softmax,
  sum,
  type Device,
  type Random,
  type Tensor,
} from '../engine/index.ts';
import { Conv2d, LayerNorm, Linear, Module } from '../engine/nn/index.ts';
import type { ModelConfig } from './config.ts';

/** Length of the vector that the generator's first linear layer reads. */
export function expertInputs({ expertInput, expertMapSize, hiddenDim, dpg }: ModelConfig): number {
  if (expertInput === 'map') return expertMapSize ** 2;
  return dpg === 'staircase' ? 4 * hiddenDim : hiddenDim;
}

/**
 * Computes weights of the experts from P2..P5 [DSR 3.3].
 * - Staircase: x = P2; three times x = concat(depthwise 3x3 with stride 2 of x, next level); one more such convolution.
 * - Plain: x = P5.
 * Then x becomes a vector:
 * - `map`: bilinear resize to S x S, sum over channels.
 * - `mean`: mean over positions, layer norm. A sum over hundreds of channels makes large logits from the start, so that
 *   the softmax is one-hot and learns little; the norm keeps them small.
 * Then linear, ReLU, linear, softmax over experts at a temperature [DC, arXiv 1912.03458].
 */
class ExpertWeights extends Module {
  private readonly depthwise: readonly Conv2d[];
  private readonly norm: LayerNorm | null;
  private readonly linear1: Linear;
  private readonly linear2: Linear;

  constructor(
    device: Device,
    random: Random,
    private readonly config: ModelConfig,
  ) {
    super(device);
    const d = config.hiddenDim;
    this.depthwise =
      config.dpg === 'staircase'
        ? this.childList(
            'depthwise',
            [1, 2, 3, 4].map(
              (i) => new Conv2d(device, random, d * i, d * i, 3, { stride: 2, groups: d * i, bias: true }),
            ),
          )
        : [];
    const inputs = expertInputs(config);
    this.norm = config.expertInput === 'mean' ? this.child('norm', new LayerNorm(device, inputs)) : null;
    this.linear1 = this.child('linear1', new Linear(device, random, inputs, config.expertHiddenDim));
    this.linear2 = this.child(
      'linear2',
      new Linear(device, random, config.expertHiddenDim, config.numExperts * config.numProposals),
    );
  }

  /** features P2..P5 [B, h, w, d]; 1 / temperature [1] -> [B, E, N], summing to 1 over E. */
  forward(features: readonly Tensor[], inverseTemperature: Tensor): Tensor {
    const { expertMapSize: s, numExperts, numProposals } = this.config;
    let x = features[this.depthwise.length > 0 ? 0 : features.length - 1];
    this.depthwise.forEach((conv, i) => {
      x = conv.forward(x);
      if (i + 1 < features.length) x = concat([x, features[i + 1]], 3);
    });
    const input = this.norm
      ? this.norm.forward(mean(x, { axes: [1, 2] }))
      : reshape(sum(resizeBilinear(x, [s, s]), { axes: [3] }), [-1, s * s]);
    const logits = this.linear2.forward(this.linear1.forward(input, { activation: 'relu' }));
    return softmax(mul(reshape(logits, [-1, numExperts, numProposals]), inverseTemperature), 1);
  }
}

/**
 * Sides of the initial boxes of each expert on a grid, in cells: 1.5. With `expertInput: 'mean'` the sizes differ by a
 * factor of up to 4 around 1.5, so that images with small and with large objects can prefer other experts.
 */
function gridScales({ dpg, expertInput, numExperts }: ModelConfig): number[] {
  if (dpg === 'none') return [1.5];
  const spread = expertInput === 'mean' && numExperts > 1 ? 4 : 1;
  return Array.from({ length: numExperts }, (_, e) => 1.5 * spread ** (e / Math.max(1, numExperts - 1) - 0.5));
}

/** Columns and rows of a regular grid with at least `count` cells. */
function gridSize(count: number): [columns: number, rows: number] {
  const columns = Math.ceil(Math.sqrt(count));
  return [columns, Math.ceil(count / columns)];
}

/** (x, y) of the centers of cells of a regular grid of the unit square, row by row. */
export function gridCenters(count: number): [x: number, y: number][] {
  const [columns, rows] = gridSize(count);
  return Array.from({ length: count }, (_, i) => [
    ((i % columns) + 0.5) / columns,
    (Math.floor(i / columns) + 0.5) / rows,
  ]);
}

/** (cx, cy, w, h) of boxes on a regular grid of the unit square. `scale`: sides in cells. */
function gridBoxes(count: number, scale: number): Float32Array<ArrayBuffer> {
  const [columns, rows] = gridSize(count);
  const size = [Math.min(1, scale / columns), Math.min(1, scale / rows)];
  return Float32Array.from(gridCenters(count).flatMap((center) => [...center, ...size]));
}

export interface InitialProposals {
  /** [B, N, 4], (cx, cy, w, h) normalized. */
  readonly boxes: Tensor;
  /** [B, N, d]. */
  readonly features: Tensor;
  /** [B, E, N]; null without dynamic proposal generation. */
  readonly expertWeights: Tensor | null;
}

export class Proposals extends Module {
  private readonly boxes: Tensor;
  private readonly features: Tensor;
  private readonly weights: ExpertWeights | null;

  constructor(
    device: Device,
    random: Random,
    private readonly config: ModelConfig,
  ) {
    super(device);
    const { numProposals: n, hiddenDim: d } = config;
    const experts = config.dpg === 'none' ? 1 : config.numExperts;
    const boxes = new Float32Array(experts * n * 4);
    gridScales(config).forEach((scale, e) => {
      const initial =
        config.proposalInit === 'grid'
          ? gridBoxes(n, scale)
          : Float32Array.from({ length: n * 4 }, (_, i) => (i % 4 < 2 ? 0.5 : 1));
      boxes.set(initial, e * n * 4);
    });
    this.boxes = this.parameter('boxes', [experts, n, 4], boxes);
    this.features = this.parameter('features', [experts, n, d], random.normalArray(experts * n * d));
    this.weights = config.dpg === 'none' ? null : this.child('weights', new ExpertWeights(device, random, config));
  }

  forward(pyramid: readonly Tensor[], inverseTemperature: Tensor): InitialProposals {
    const batch = pyramid[0].shape[0];
    const { numProposals: n, hiddenDim: d } = this.config;
    if (!this.weights)
      return {
        boxes: expand(this.boxes, [batch, n, 4]),
        features: expand(this.features, [batch, n, d]),
        expertWeights: null,
      };
    const expertWeights = this.weights.forward(pyramid, inverseTemperature);
    return {
      boxes: mixExperts(expertWeights, this.boxes),
      features: mixExperts(expertWeights, this.features),
      expertWeights,
    };
  }
}
