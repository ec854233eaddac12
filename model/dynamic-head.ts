/**
 * The dynamic head [SR 3.3]: T stages. Each stage pools the features of the proposals' regions, applies self-attention
 * between the proposals, filters each region by two 1x1 convolutions that its proposal generates, and predicts classes
 * and refined boxes.
 *
 * Glossary: B images, N proposals, C classes, R = B * N, d width, k inner width, r pooler resolution.
 * Boxes are xyxy, pixels of the padded batch.
 * Names follow the [SR] checkpoints: `head_series.<s>.self_attn.in_proj_weight`,
 * `.inst_interact.dynamic_layer.weight`, ...
 */
import {
  add,
  checkpoint,
  decodeBoxes,
  dynamicInteraction,
  reshape,
  type Device,
  type Random,
  type Tensor,
} from '../engine/index.ts';
import { constant, LayerNorm, Linear, Module, MultiheadAttention } from '../engine/nn/index.ts';
import type { ModelConfig } from './config.ts';
import { poolRois } from './roi-pooler.ts';

/** Dynamic instance interaction: two 1x1 convolutions. Each proposal feature generates their weights. */
class DynamicConv extends Module {
  private readonly dynamicLayer: Linear;
  private readonly norm1: LayerNorm;
  private readonly norm2: LayerNorm;
  private readonly norm3: LayerNorm;
  private readonly outLayer: Linear;

  constructor(device: Device, random: Random, config: ModelConfig) {
    super(device);
    const { hiddenDim: d, dynamicDim: k, poolerResolution: r } = config;
    this.dynamicLayer = this.child('dynamic_layer', new Linear(device, random, d, 2 * d * k, { init: 'xavier' }));
    this.norm1 = this.child('norm1', new LayerNorm(device, k));
    this.norm2 = this.child('norm2', new LayerNorm(device, d));
    this.norm3 = this.child('norm3', new LayerNorm(device, d));
    this.outLayer = this.child('out_layer', new Linear(device, random, d * r * r, d, { init: 'xavier' }));
  }

  /** proposal [R, d], roi [R, r * r, d] -> [R, d]. */
  forward(proposal: Tensor, roi: Tensor): Tensor {
    const x = dynamicInteraction(
      roi,
      this.dynamicLayer.forward(proposal),
      this.norm1.weight,
      this.norm1.bias,
      this.norm2.weight,
      this.norm2.bias,
    );
    return this.norm3.forward(this.outLayer.forward(reshape(x, [x.shape[0], -1])), { activation: 'relu' });
  }
}

/** Linear without bias, LayerNorm, ReLU, repeated. Names as in the checkpoints: 0, 1, (2 is the ReLU,) 3, 4, ... */
class Tower extends Module {
  private readonly layers: readonly { readonly linear: Linear; readonly norm: LayerNorm }[];

  constructor(device: Device, random: Random, width: number, depth: number) {
    super(device);
    this.layers = Array.from({ length: depth }, (_, i) => ({
      linear: this.child(String(3 * i), new Linear(device, random, width, width, { bias: false, init: 'xavier' })),
      norm: this.child(String(3 * i + 1), new LayerNorm(device, width)),
    }));
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((y, { linear, norm }) => norm.forward(linear.forward(y), { activation: 'relu' }), x);
  }
}

export interface StageOutput {
  /** [B, N, C], before the sigmoid. */
  readonly logits: Tensor;
  /** [B, N, 4]. */
  readonly boxes: Tensor;
  /** [B, N, d]: the proposal features for the next stage. */
  readonly proposal: Tensor;
}

class Stage extends Module {
  private readonly attention: MultiheadAttention;
  private readonly interaction: DynamicConv;
  private readonly linear1: Linear;
  private readonly linear2: Linear;
  private readonly norm1: LayerNorm;
  private readonly norm2: LayerNorm;
  private readonly norm3: LayerNorm;
  private readonly classTower: Tower;
  private readonly regressionTower: Tower;
  private readonly classLogits: Linear;
  private readonly boxDeltas: Linear;

  constructor(
    device: Device,
    random: Random,
    private readonly config: ModelConfig,
  ) {
    super(device);
    const d = config.hiddenDim;
    const xavier = { init: 'xavier' } as const;
    this.attention = this.child('self_attn', new MultiheadAttention(device, random, d, config.numAttentionHeads));
    this.interaction = this.child('inst_interact', new DynamicConv(device, random, config));
    this.linear1 = this.child('linear1', new Linear(device, random, d, config.feedforwardDim, xavier));
    this.linear2 = this.child('linear2', new Linear(device, random, config.feedforwardDim, d, xavier));
    this.norm1 = this.child('norm1', new LayerNorm(device, d));
    this.norm2 = this.child('norm2', new LayerNorm(device, d));
    this.norm3 = this.child('norm3', new LayerNorm(device, d));
    this.classTower = this.child('cls_module', new Tower(device, random, d, config.numClassLayers));
    this.regressionTower = this.child('reg_module', new Tower(device, random, d, config.numRegressionLayers));
    this.classLogits = this.child('class_logits', new Linear(device, random, d, config.numClasses, xavier));
    this.boxDeltas = this.child('bboxes_delta', new Linear(device, random, d, 4, xavier));
    const { priorProbability: prior } = config;
    device.write(this.classLogits.bias!, constant(config.numClasses, -Math.log((1 - prior) / prior)));
  }

  /** boxes [B, N, 4], proposal [B, N, d]. */
  forward(pyramid: readonly Tensor[], boxes: Tensor, proposal: Tensor): StageOutput {
    const [b, n, d] = proposal.shape;
    return this.device.scope(() => {
      const roi = poolRois(pyramid, boxes, this.config);
      const attended = this.norm1.forward(this.attention.forward(proposal, proposal));
      const filtered = this.interaction.forward(reshape(attended, [b * n, d]), roi);
      const interacted = this.norm2.forward(add(attended, reshape(filtered, [b, n, d])));
      const x = this.norm3.forward(
        this.linear2.forward(this.linear1.forward(interacted, { activation: 'relu' }), { residual: interacted }),
      );
      const logits = this.classLogits.forward(this.classTower.forward(x));
      const deltas = this.boxDeltas.forward(this.regressionTower.forward(x));
      const { boxMinLogScale: minLogScale, boxMaxLogScale: maxLogScale } = this.config;
      return { logits, boxes: decodeBoxes(deltas, boxes, { minLogScale, maxLogScale }), proposal: x };
    });
  }
}

export class DynamicHead extends Module {
  private readonly stages: readonly Stage[];

  constructor(
    device: Device,
    random: Random,
    private readonly config: ModelConfig,
  ) {
    super(device);
    this.stages = this.childList(
      'head_series',
      Array.from({ length: config.numStages }, () => new Stage(device, random, config)),
    );
  }

  /**
   * boxes [B, N, 4], features [B, N, d] -> the output of each stage. Gradients do not flow through boxes to earlier
   * stages.
   */
  forward(pyramid: readonly Tensor[], boxes: Tensor, features: Tensor): StageOutput[] {
    let input = { boxes, proposal: features };
    return this.stages.map((stage) => {
      const output = this.config.gradientCheckpointing
        ? checkpointed(stage, pyramid, input.boxes, input.proposal)
        : stage.forward(pyramid, input.boxes, input.proposal);
      input = { boxes: output.boxes.detach(), proposal: output.proposal };
      return output;
    });
  }
}

/** A stage whose values are not kept: the backward pass computes them again. */
function checkpointed(stage: Stage, pyramid: readonly Tensor[], boxes: Tensor, proposal: Tensor): StageOutput {
  const [logits, refined, next] = checkpoint([boxes, proposal, ...pyramid], ([b, p, ...levels]) => {
    const output = stage.forward(levels, b, p);
    return [output.logits, output.boxes, output.proposal] as const;
  });
  return { logits, boxes: refined, proposal: next };
}
