/**
 * Feature pyramid [FPN, arXiv 1612.03144]: C2..C5 to P2..P5 of d channels. Lateral convolutions are 1x1, output
 * convolutions 3x3, both with bias. The coarser level is upsampled (nearest neighbor, factor 2) and added.
 * Names follow Detectron2: `bottom_up.*`, `fpn_lateral2.weight`, `fpn_output2.bias`, ...
 */
import { upsampleNearest, type Device, type Random, type Tensor } from '../engine/index.ts';
import { Conv2d, Module } from '../engine/nn/index.ts';
import type { ModelConfig } from './config.ts';
import { ResNet } from './resnet.ts';

export class FPN extends Module {
  private readonly bottomUp: ResNet;
  private readonly laterals: readonly Conv2d[];
  private readonly outputs: readonly Conv2d[];

  constructor(device: Device, random: Random, config: ModelConfig) {
    super(device);
    this.bottomUp = this.child('bottom_up', new ResNet(device, random, config));
    const conv = (name: string, inputs: number, kernel: number): Conv2d =>
      this.child(name, new Conv2d(device, random, inputs, config.hiddenDim, kernel, { bias: true, init: 'c2-xavier' }));
    this.laterals = this.bottomUp.channels.map((channels, i) => conv(`fpn_lateral${i + 2}`, channels, 1));
    this.outputs = this.bottomUp.channels.map((_, i) => conv(`fpn_output${i + 2}`, config.hiddenDim, 3));
  }

  /** x [B, H, W, 3], normalized; H and W multiples of 32 -> P2..P5: [B, H / s, W / s, d], s = 4, 8, 16, 32. */
  forward(x: Tensor): Tensor[] {
    const features = this.bottomUp.forward(x);
    const pyramid: Tensor[] = [];
    let top: Tensor | null = null;
    for (let i = features.length - 1; i >= 0; i--) {
      top = this.laterals[i].forward(features[i], top === null ? {} : { residual: upsampleNearest(top, 2) });
      pyramid.unshift(this.outputs[i].forward(top));
    }
    return pyramid;
  }
}
