/**
 * ResNet as in Detectron2: stem, res2..res5, the stride of a bottleneck in its 3x3 convolution.
 *
 * Glossary: B images; H, W pixels of the padded batch (multiples of 32). Feature maps are NHWC.
 * Names follow Detectron2: `stem.conv1.weight`, `stem.conv1.norm.bias`, `res2.0.conv1.weight`,
 * `res3.0.shortcut.norm.weight`, ...
 */
import { checkpoint, maxPool2d, type Device, type Random, type Tensor } from '../engine/index.ts';
import { Conv2d, FrozenBatchNorm, GroupNorm, Module, type NormOptions } from '../engine/nn/index.ts';
import type { ModelConfig } from './config.ts';

/** Number of residual blocks of res2..res5, by depth. */
export const RESNET_BLOCKS = { 18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3] } as const;

/** Whether the blocks of a ResNet are bottlenecks. */
const hasBottlenecks = (depth: ModelConfig['depth']): boolean => depth >= 50;

/** Output channels of a block per channel of its 3x3 convolution. */
export const expansionOf = (depth: ModelConfig['depth']): 1 | 4 => (hasBottlenecks(depth) ? 4 : 1);

/** Channels, kernel size and stride of a convolution. */
interface ConvShape {
  readonly inputs: number;
  readonly outputs: number;
  readonly kernel: number;
  readonly stride?: number;
}

/**
 * A convolution without bias and its norm. GroupNorm's kernel also applies ReLU and residual. With a frozen batch norm,
 * the kernel of the convolution applies all of them.
 */
class NormedConv extends Module {
  private readonly conv: Conv2d;
  private readonly norm: FrozenBatchNorm | GroupNorm;

  constructor(device: Device, random: Random, config: ModelConfig, { inputs, outputs, kernel, stride = 1 }: ConvShape) {
    super(device);
    this.conv = this.child('', new Conv2d(device, random, inputs, outputs, kernel, { stride, init: 'fan-out' }));
    // 32 groups. Layers with fewer than 128 channels have groups of 4 channels.
    this.norm = this.child(
      'norm',
      config.norm === 'frozen_bn'
        ? new FrozenBatchNorm(device, outputs)
        : new GroupNorm(device, Math.min(32, Math.floor(outputs / 4)), outputs),
    );
  }

  forward(x: Tensor, options: NormOptions = {}): Tensor {
    if (this.norm instanceof FrozenBatchNorm) return this.conv.forward(x, options, this.norm.scaleAndShift());
    return this.norm.forward(this.conv.forward(x), options);
  }
}

/** Channels and stride of a residual block. `middle`: channels of a bottleneck's 3x3 convolution. */
interface BlockShape {
  readonly inputs: number;
  readonly middle: number;
  readonly outputs: number;
  readonly stride: number;
}

/** Basic block (two 3x3) or bottleneck (1x1, 3x3 with the stride, 1x1). */
class Block extends Module {
  private readonly conv1: NormedConv;
  private readonly conv2: NormedConv;
  private readonly conv3: NormedConv | null;
  private readonly shortcut: NormedConv | null;

  constructor(device: Device, random: Random, config: ModelConfig, { inputs, middle, outputs, stride }: BlockShape) {
    super(device);
    const conv = (name: string, shape: ConvShape): NormedConv =>
      this.child(name, new NormedConv(device, random, config, shape));
    this.shortcut =
      stride !== 1 || inputs !== outputs ? conv('shortcut', { inputs, outputs, kernel: 1, stride }) : null;
    if (hasBottlenecks(config.depth)) {
      this.conv1 = conv('conv1', { inputs, outputs: middle, kernel: 1 });
      this.conv2 = conv('conv2', { inputs: middle, outputs: middle, kernel: 3, stride });
      this.conv3 = conv('conv3', { inputs: middle, outputs, kernel: 1 });
    } else {
      this.conv1 = conv('conv1', { inputs, outputs, kernel: 3, stride });
      this.conv2 = conv('conv2', { inputs: outputs, outputs, kernel: 3 });
      this.conv3 = null;
    }
  }

  forward(x: Tensor): Tensor {
    const { device } = this;
    return device.scope(() => {
      const residual = this.shortcut ? this.shortcut.forward(x) : x;
      const y = this.conv1.forward(x, { activation: 'relu' });
      if (!this.conv3) return this.conv2.forward(y, { activation: 'relu', residual });
      return this.conv3.forward(this.conv2.forward(y, { activation: 'relu' }), { activation: 'relu', residual });
    });
  }
}

export class ResNet extends Module {
  /** Channels of res2..res5. Their strides are 4, 8, 16, 32. */
  readonly channels: readonly number[];
  private readonly stem: NormedConv;
  private readonly stages: readonly (readonly Block[])[];

  constructor(
    device: Device,
    random: Random,
    private readonly config: ModelConfig,
  ) {
    super(device);
    const { depth, stemChannels } = config;
    const stem = { inputs: 3, outputs: stemChannels, kernel: 7, stride: 2 };
    this.stem = this.child('stem.conv1', new NormedConv(device, random, config, stem));
    const expansion = expansionOf(depth);
    let inputs = stemChannels;
    this.stages = RESNET_BLOCKS[depth].map((count, i) => {
      const middle = stemChannels * 2 ** i;
      const outputs = middle * expansion;
      const blocks = Array.from({ length: count }, (_, j) => {
        const stride = j === 0 && i > 0 ? 2 : 1;
        const block = new Block(device, random, config, { inputs, middle, outputs, stride });
        inputs = outputs;
        return block;
      });
      return this.childList(`res${i + 2}`, blocks);
    });
    this.channels = [1, 2, 4, 8].map((factor) => stemChannels * factor * expansion);
    const frozen = [[this.stem], ...this.stages].slice(0, config.freezeAt);
    for (const part of frozen) for (const module of part) module.freeze();
  }

  /** x [B, H, W, 3], normalized -> C2..C5: [B, H / s, W / s, channels] at strides s = 4, 8, 16, 32. */
  forward(x: Tensor): Tensor[] {
    const { device } = this;
    let y = device.scope(() =>
      maxPool2d(this.stem.forward(x, { activation: 'relu' }), { kernel: 3, stride: 2, padding: 1 }),
    );
    return this.stages.map((blocks, i) => {
      const recomputed = this.config.gradientCheckpointing && i + 1 >= this.config.freezeAt;
      for (const block of blocks)
        y = recomputed ? checkpoint([y], ([input]) => [block.forward(input)])[0] : block.forward(y);
      return y;
    });
  }
}
