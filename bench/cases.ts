/** The table of benchmark cases: products and convolutions of round sizes, and the ops of `paper-r50` and `small`. */
import {
  conv2d,
  dynamicInteraction,
  groupNorm,
  layerNorm,
  matmul,
  multiheadAttention,
  roiAlign,
  softmax,
  sum,
} from '../engine/index.ts';
import { MODEL_PRESETS, type ModelConfig } from '../model/index.ts';
import { noise, random, type BenchCase, type OpCase } from './case.ts';
import { interactionReference } from './references/interaction.ts';
import { groupNormReference, layerNormReference } from './references/norms.ts';
import { conv2dReference, matmulReference } from './references/products.ts';
import { roiAlignReference } from './references/roi-align.ts';
import { attentionReference, softmaxReference, sumReference } from './references/softmax.ts';

type Form = 'nn' | 'nt' | 'tn';

/** op(a) op(b) of an m x k and a k x n matrix. */
function matmulCase(
  form: Form,
  [m, k, n]: readonly [number, number, number],
  { batch = 0, gradients = false }: { batch?: number; gradients?: boolean } = {},
): OpCase {
  const [transposeA, transposeB] = [form === 'tn', form === 'nt'];
  const a = transposeA ? [k, m] : [m, k];
  const b = transposeB ? [n, k] : [k, n];
  const lead = batch > 0 ? [batch] : [];
  const flops = 2 * Math.max(1, batch) * m * k * n;
  const product = m === k && k === n ? `${m}^3` : `${m}x${k} . ${k}x${n}`;
  return {
    kind: 'op',
    op: `matmul ${form}`,
    shape: batch > 0 ? `${batch} x (${product})` : product,
    flops,
    inputs: () => ({ a: random([...lead, ...a], 1), b: random([...lead, ...b], 2) }),
    run: ({ a: left, b: right }) => matmul(left, right, { transposeA, transposeB }),
    reference: (host, upstream) => matmulReference(host.a, host.b, { transposeA, transposeB }, upstream),
    // The gradients of a product are products of the other two forms, which mostly have rows of their own.
    gradients: gradients
      ? [
          { wrt: ['a'], reads: ['b'], flops },
          { wrt: ['b'], reads: ['a'], flops },
        ]
      : [],
    peer: { kind: 'matmul', transposeA, transposeB },
  };
}

interface ConvSizes {
  readonly batch?: number;
  readonly height: number;
  readonly width?: number;
  readonly from: number;
  readonly to: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly depthwise?: boolean;
}

function convCase({
  batch = 1,
  height,
  width = height,
  from,
  to,
  kernel,
  stride = 1,
  depthwise = false,
}: ConvSizes): OpCase {
  const padding = Math.floor(kernel / 2);
  const out = (size: number): number => Math.floor((size + 2 * padding - kernel) / stride) + 1;
  const groups = depthwise ? from : 1;
  const flops = 2 * batch * out(height) * out(width) * to * kernel * kernel * (from / groups);
  return {
    kind: 'op',
    op: `${depthwise ? 'depthwise' : 'conv'} ${kernel}x${kernel}${stride > 1 ? ` / ${stride}` : ''}`,
    shape: `${depthwise ? from : `${from}-${to}`} @ ${batch > 1 ? `${batch} x ` : ''}${height}x${width}`,
    flops,
    inputs: () => ({
      x: random([batch, height, width, from], 1),
      weight: random([kernel, kernel, from / groups, to], 2),
    }),
    run: ({ x, weight }) => conv2d(x, weight, null, { stride, padding, groups }),
    reference: (host, upstream) => conv2dReference(host.x, host.weight, { stride, padding, groups }, upstream),
    gradients: [
      { wrt: ['x'], reads: ['weight'], flops },
      { wrt: ['weight'], reads: ['x'], flops },
    ],
    peer: depthwise ? undefined : { kind: 'conv2d', stride, padding },
  };
}

function interactionCase(proposals: number, positions: number, d: number, k: number): OpCase {
  const flops = 4 * proposals * positions * d * k;
  const near = (length: number, center: number, seed: number) => ({
    shape: [length],
    data: noise(length, seed).map((v) => center + 0.4 * v),
  });
  return {
    kind: 'op',
    op: 'dynamic interaction',
    shape: `${proposals} proposals, ${positions}, ${d}, ${k}`,
    flops,
    inputs: () => ({
      roi: random([proposals, positions, d], 1),
      parameters: random([proposals, 2 * d * k], 2),
      gamma1: near(k, 1, 3),
      beta1: near(k, 0.2, 4),
      gamma2: near(d, 1, 5),
      beta2: near(d, 0, 6),
    }),
    run: ({ roi, parameters, gamma1, beta1, gamma2, beta2 }) =>
      dynamicInteraction(roi, parameters, gamma1, beta1, gamma2, beta2),
    reference: ({ roi, parameters, gamma1, beta1, gamma2, beta2 }, upstream, checked) =>
      interactionReference({ roi, parameters, gamma1, beta1, gamma2, beta2 }, checked, upstream),
    blocks: { axis: proposals, checked: [...new Set([0, Math.floor(proposals / 3), proposals - 1])] },
    gradients: [{ wrt: ['roi', 'parameters', 'gamma1', 'beta1', 'gamma2', 'beta2'], flops: 2 * flops }],
    peer: { kind: 'interaction' },
  };
}

/** Nominal operations per element, one for each + - * / max exp sqrt. Memory traffic limits these kernels. */
const NORM_FLOPS = { forward: 7, backward: 13 };
const SOFTMAX_FLOPS = { forward: 5, backward: 4 };

function layerNormCase(rows: number, d: number): OpCase {
  return {
    kind: 'op',
    op: 'layer norm',
    shape: `${rows}x${d}`,
    flops: NORM_FLOPS.forward * rows * d,
    inputs: () => ({ x: random([rows, d], 1), gamma: random([d], 2), beta: random([d], 3) }),
    run: ({ x, gamma, beta }) => layerNorm(x, gamma, beta),
    reference: ({ x, gamma, beta }, upstream) => layerNormReference(x, gamma, beta, upstream),
    gradients: [{ wrt: ['x', 'gamma', 'beta'], reads: ['x', 'gamma'], flops: NORM_FLOPS.backward * rows * d }],
    peer: { kind: 'layerNorm' },
  };
}

function groupNormCase(shape: readonly [number, number, number, number], groups: number): OpCase {
  const [batch, height, width, channels] = shape;
  const size = batch * height * width * channels;
  return {
    kind: 'op',
    op: 'group norm',
    shape: `${batch > 1 ? `${batch} x ` : ''}${height}x${width}x${channels}, ${groups} groups`,
    flops: NORM_FLOPS.forward * size,
    inputs: () => ({
      x: random(shape, 1),
      gamma: random([channels], 2),
      beta: random([channels], 3),
    }),
    run: ({ x, gamma, beta }) => groupNorm(x, gamma, beta, groups),
    reference: ({ x, gamma, beta }, upstream) => groupNormReference({ x, gamma, beta }, groups, upstream),
    gradients: [{ wrt: ['x', 'gamma', 'beta'], reads: ['x', 'gamma'], flops: NORM_FLOPS.backward * size }],
  };
}

function softmaxCase(rows: number, columns: number): OpCase {
  return {
    kind: 'op',
    op: 'softmax',
    shape: `${rows}x${columns}`,
    flops: SOFTMAX_FLOPS.forward * rows * columns,
    inputs: () => ({ x: { shape: [rows, columns], data: noise(rows * columns, 1).map((v) => 8 * v) } }),
    run: ({ x }) => softmax(x),
    reference: ({ x }, upstream) => softmaxReference(x, upstream),
    gradients: [{ wrt: ['x'], flops: SOFTMAX_FLOPS.backward * rows * columns }],
    peer: { kind: 'softmax' },
  };
}

function sumCase(count: number): OpCase {
  return {
    kind: 'op',
    op: 'sum',
    shape: count.toExponential(0).replace('+', ''),
    flops: count,
    inputs: () => ({ x: { shape: [count], data: noise(count, 1).map((v) => v + 0.5) } }),
    run: ({ x }) => sum(x),
    reference: ({ x }, upstream) => sumReference(x, upstream),
    gradients: [],
    peer: { kind: 'sum' },
  };
}

function attentionCase(batch: number, tokens: number, heads: number, d: number): OpCase {
  const products = 2 * batch * tokens * tokens * d;
  const softmaxes = SOFTMAX_FLOPS.forward * batch * heads * tokens * tokens;
  return {
    kind: 'op',
    op: 'attention',
    shape: `${batch > 1 ? `${batch} x ` : ''}${tokens} queries, ${heads} heads, ${d}`,
    flops: 2 * products + softmaxes,
    inputs: () => ({
      qkv: { shape: [batch, tokens, 3 * d], data: noise(batch * tokens * 3 * d, 1).map((v) => 4 * v) },
    }),
    run: ({ qkv }) => multiheadAttention(qkv, heads),
    reference: ({ qkv }, upstream) => attentionReference(qkv, heads, upstream),
    // The backward pass computes the scores again, then the gradients of weights, values, queries and keys.
    gradients: [{ wrt: ['qkv'], flops: 5 * products + softmaxes }],
  };
}

interface RoiAlignSizes {
  readonly batch: number;
  readonly proposals: number;
  /** Size of the images in pixels. */
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly resolution: number;
  /** Samples per bin and axis. */
  readonly samples: number;
}

function roiAlignCase({ batch, proposals, height, width, channels: d, resolution, samples }: RoiAlignSizes): OpCase {
  const strides = [4, 8, 16, 32];
  const bins = batch * proposals * resolution ** 2;
  const flops = bins * d * samples ** 2 * 8;
  const maps = strides.map((_, level) => `map${level}`);
  return {
    kind: 'op',
    op: 'roi align',
    shape:
      `${batch > 1 ? `${batch} x ` : ''}${proposals} boxes, ${resolution}x${resolution}, ${d}, ` +
      `pyramid of ${height}x${width}`,
    flops,
    inputs: () => {
      const unit = noise(batch * proposals * 4, 9).map((v) => v + 0.5);
      const boxes = new Float32Array(unit.length);
      for (let i = 0; i < unit.length; i += 4) {
        const [w, h] = [width * unit[i + 2] ** 2 + 8, height * unit[i + 3] ** 2 + 8];
        boxes.set(
          [
            unit[i] * width - w / 2,
            unit[i + 1] * height - h / 2,
            unit[i] * width + w / 2,
            unit[i + 1] * height + h / 2,
          ],
          i,
        );
      }
      return {
        boxes: { shape: [batch, proposals, 4], data: boxes },
        ...Object.fromEntries(
          strides.map((s, level) => [
            `map${level}`,
            random([batch, Math.ceil(height / s), Math.ceil(width / s), d], level + 1),
          ]),
        ),
      };
    },
    run: (inputs) =>
      roiAlign(
        maps.map((name) => inputs[name]),
        inputs.boxes,
        { resolution, samplingRatio: samples, strides },
      ),
    reference: (host, upstream) =>
      roiAlignReference(
        host.boxes,
        maps.map((name) => host[name]),
        { resolution, samples, strides },
        upstream,
      ),
    gradients: [{ wrt: maps, reads: ['boxes'], flops }],
  };
}

const adamwCase = (parameters: number, tensors: number): BenchCase => ({
  kind: 'adamw',
  op: 'adamw',
  shape: `${(parameters / 1e6).toFixed(1)} M parameters, ${tensors} tensors`,
  parameters,
  tensors,
});

/** Ops with the shapes that a preset's model gives them. The sides of the images are multiples of 32. */
function presetCases(config: ModelConfig, batch: number, height: number, width: number): OpCase[] {
  const {
    hiddenDim: d,
    dynamicDim: k,
    numProposals: n,
    poolerResolution: r,
    poolerSamplingRatio,
    numAttentionHeads,
  } = config;
  return [
    interactionCase(batch * n, r * r, d, k),
    attentionCase(batch, n, numAttentionHeads, d),
    roiAlignCase({
      batch,
      proposals: n,
      height,
      width,
      channels: d,
      resolution: r,
      samples: poolerSamplingRatio,
    }),
    convCase({ batch, height: height / 4, width: width / 4, from: d, to: d, kernel: 3, stride: 2, depthwise: true }),
  ];
}

const { 'paper-r50': PAPER, small: SMALL } = MODEL_PRESETS;
/** Batch size and image side of the `small` preset. */
const SMALL_BATCH = 8;
const SMALL_SIDE = 96;

function smallCases(): BenchCase[] {
  const {
    hiddenDim: d,
    dynamicDim: k,
    numProposals: n,
    poolerResolution: r,
    stemChannels: stem,
    feedforwardDim,
  } = SMALL;
  const rows = SMALL_BATCH * n;
  const map = { batch: SMALL_BATCH, height: SMALL_SIDE / 4 };
  return [
    matmulCase('nt', [rows, d, 2 * d * k], { gradients: true }),
    matmulCase('nt', [rows, d * r * r, d], { gradients: true }),
    matmulCase('nt', [rows, d, feedforwardDim], { gradients: true }),
    convCase({ batch: SMALL_BATCH, height: SMALL_SIDE, from: 3, to: stem, kernel: 7, stride: 2 }),
    convCase({ ...map, from: stem, to: stem, kernel: 3 }),
    convCase({ ...map, height: map.height / 8, from: 8 * stem, to: 8 * stem, kernel: 3 }),
    convCase({ ...map, from: d, to: d, kernel: 3 }),
    convCase({ ...map, from: stem, to: d, kernel: 1 }),
    ...presetCases(SMALL, SMALL_BATCH, SMALL_SIDE, SMALL_SIDE),
    layerNormCase(rows, d),
    groupNormCase([SMALL_BATCH, map.height, map.height, stem], stem / 4),
    adamwCase(1.5e6, 100),
  ];
}

/** All cases. `paper` has round sizes, and the `paper-r50` preset with one image of 480 x 640. */
export function benchCases(): { readonly preset: 'paper' | 'small'; readonly benchCase: BenchCase }[] {
  const forms: readonly Form[] = ['nn', 'nt', 'tn'];
  const paper: BenchCase[] = [
    ...[256, 512].flatMap((side) => forms.map((form) => matmulCase(form, [side, side, side]))),
    ...forms.map((form) => matmulCase(form, [300, 256, 32768])),
    ...forms.map((form) => matmulCase(form, [300, 12544, 256])),
    ...forms.map((form) => matmulCase(form, [49, 256, 64], { batch: 300 })),
    convCase({ height: 128, from: 64, to: 64, kernel: 3 }),
    convCase({ height: 32, from: 256, to: 256, kernel: 3 }),
    convCase({ height: 64, from: 256, to: 64, kernel: 1 }),
    convCase({ height: 256, from: 3, to: 64, kernel: 7, stride: 2 }),
    ...presetCases(PAPER, 1, 480, 640),
    layerNormCase(4096, 256),
    softmaxCase(2400, 300),
    sumCase(1e6),
    groupNormCase([1, 120, 160, 256], 32),
    adamwCase(1e7, 100),
  ];
  return [
    ...paper.map((benchCase) => ({ preset: 'paper' as const, benchCase })),
    ...smallCases().map((benchCase) => ({ preset: 'small' as const, benchCase })),
  ];
}
