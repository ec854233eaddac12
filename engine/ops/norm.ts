/** Normalisation: layerNorm, groupNorm and scaleShift (frozen batch norm), with residual and ReLU fused. */
import {
  channelAffineKernel,
  channelGradientSumsKernel,
  channelMomentsKernel,
  groupGradientKernel,
  groupNormGradientKernel,
  groupNormResidualGradientKernel,
  groupStatisticsKernel,
  layerNormGradientKernel,
  layerNormKernel,
  layerNormWideColumnsKernel,
  layerNormWideGradientKernel,
  scaleShiftGradientKernel,
  scaleShiftResidualGradientKernel,
  type Width,
} from '../../kernels/norm.ts';
import { groupGradientSubgroupKernel, groupStatisticsSubgroupKernel } from '../../kernels/group-norm.ts';
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import { teamOf } from '../../kernels/reduce.ts';
import { defineOp, opFunction } from '../core/op.ts';
import type { Random } from '../core/random.ts';
import { formatShape, sameShape, shapeError, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { withOperands } from './operand-textures.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './gemm-variants.ts';
import { columnPairSums, sumColumnPairs } from './reduce.ts';
import {
  chooseRows,
  otherTeams,
  rowsOf,
  rowTeams,
  rowTextures,
  type RowProblem,
  type Rows,
  type RowTeams,
} from './row-variants.ts';

interface LayerNormAttributes {
  readonly epsilon: number;
  readonly relu: boolean;
}

function checkFloat(op: string, tensors: Readonly<Record<string, Tensor | null>>): void {
  for (const [name, tensor] of Object.entries(tensors))
    if (tensor && tensor.dtype !== 'f32') shapeError(op, name, 'dtype f32', tensor.dtype);
}

function checkVector(op: string, name: string, tensor: Tensor, size: number): void {
  if (tensor.rank !== 1 || tensor.size !== size)
    shapeError(op, name, `[${size}], the last dimension of x`, tensor.shape);
}

function checkResidual(op: string, residual: Tensor | null, x: Tensor): void {
  if (residual && !sameShape(residual.shape, x.shape))
    shapeError(op, 'residual', `x's shape ${formatShape(x.shape)}`, residual.shape);
}

type Forward = Readonly<Record<'input' | 'gamma' | 'beta' | 'output', Tensor>>;
type Gradient = Readonly<Record<'input' | 'gamma' | 'beta' | 'upstream' | 'gradient' | 'byGamma' | 'byBeta', Tensor>>;

function normalizeWith(
  { input, gamma, beta, output }: Forward,
  { epsilon, relu }: LayerNormAttributes,
  { subgroupSize, slots, full, perTeam, textures }: RowTeams,
): void {
  const { device } = input;
  const { rows, columns, width } = rowsOf(input.size, gamma.size);
  withOperands(device, textures, { input }, (texture, operands, shifts) =>
    device.run(
      layerNormKernel(subgroupSize, width, slots, full, relu, texture),
      { rows, columns, per_team: perTeam, inverse: 1 / (columns * width), epsilon, ...shifts },
      { ...operands, gamma, beta, output },
      linearGrid(Math.ceil(rows / perTeam / teamOf(subgroupSize).count)),
    ),
  );
}

/** Gradients by the input, gamma and beta. Rows that are not held in registers are taken one by one, whatever `perTeam`. */
function layerNormBackward(
  { input, gamma, beta, upstream, gradient, byGamma, byBeta }: Gradient,
  { epsilon, relu }: LayerNormAttributes,
  { subgroupSize, slots, full, perTeam }: RowTeams,
): void {
  const { device } = input;
  const { rows, columns, width } = rowsOf(input.size, gamma.size);
  const size = columns * width,
    inverse = 1 / size,
    teamsAGroup = teamOf(subgroupSize).count;
  if (slots > 0) {
    const teams = Math.max(1, Math.ceil(rows / perTeam));
    const partial = device.empty([teams, 2, size]);
    const params = { rows, columns, per_team: perTeam, teams, inverse, epsilon };
    device.run(
      layerNormGradientKernel(subgroupSize, width, slots, full, relu),
      params,
      { input, gamma, beta, upstream, gradient, partial },
      linearGrid(Math.ceil(teams / teamsAGroup)),
    );
    return sumColumnPairs(device, partial, teams, size, [byGamma, byBeta]);
  }
  const statistics = device.empty([rows, 2]);
  device.run(
    layerNormWideGradientKernel(subgroupSize, width, relu),
    { rows, columns, inverse, epsilon },
    { input, gamma, beta, upstream, gradient, statistics },
    linearGrid(Math.ceil(rows / teamsAGroup)),
  );
  const chunks = Math.min(64, Math.max(1, Math.ceil(rows / 16)));
  const partial = device.empty([chunks, 2, size]);
  device.run(
    layerNormWideColumnsKernel(width, relu),
    { rows, columns, chunks },
    { input, gamma, beta, upstream, statistics, partial },
    linearGrid(Math.ceil((chunks * columns) / 64)),
  );
  sumColumnPairs(device, partial, chunks, size, [byGamma, byBeta]);
}

/** Without the ReLU, which is the same few lines in all variants, and whose kink rounding could carry a value across. */
const MEASURED: LayerNormAttributes = { epsilon: 1e-5, relu: false };

function describeForward(device: TensorDevice, rows: Rows): RowProblem<RowTeams> {
  const { rows: count, columns, width } = rows,
    vector = [columns * width];
  const textures = rowTextures(device, rows);
  const expected = rowTeams(
    rows,
    device.subgroupSize,
    true,
    Math.min(32, Math.max(4, Math.ceil(count / 512))),
    textures.expected,
  );
  return {
    expected,
    others: otherTeams(rows, expected, textures.possible),
    plain: rowTeams(rows, 0, false, 1),
    kernels: ({ subgroupSize, slots, full, textures: texture }) => [
      layerNormKernel(subgroupSize, width, slots, full, false, texture),
    ],
    tensors: { input: [count, columns * width], gamma: vector, beta: vector, output: [count, columns * width] },
    output: 'output',
    run: (variant, filled) => normalizeWith(filled as Forward, MEASURED, variant),
  };
}

function describeGradient(device: TensorDevice, rows: Rows): RowProblem<RowTeams> {
  const { rows: count, columns, width } = rows,
    shape = [count, columns * width],
    vector = [columns * width];
  const expected = rowTeams(rows, device.subgroupSize, true, count <= 1024 ? 8 : Math.max(16, Math.ceil(count / 1024)));
  return {
    expected,
    others: expected.slots > 0 ? otherTeams(rows, expected, false) : [],
    plain: rowTeams(rows, 0, false, 1),
    kernels: ({ subgroupSize, slots, full }) =>
      slots > 0
        ? [layerNormGradientKernel(subgroupSize, width, slots, full, false)]
        : [layerNormWideGradientKernel(subgroupSize, width, false), layerNormWideColumnsKernel(width, false)],
    tensors: {
      input: shape,
      gamma: vector,
      beta: vector,
      upstream: shape,
      gradient: shape,
      byGamma: vector,
      byBeta: vector,
    },
    output: ['gradient', 'byGamma', 'byBeta'],
    run: (variant, filled) => layerNormBackward(filled as Gradient, MEASURED, variant),
  };
}

/** Writes the layer normalisation of the rows of `input` to `output`; records nothing. */
export function normalizeRows(
  input: Tensor,
  gamma: Tensor,
  beta: Tensor,
  output: Tensor,
  attributes: LayerNormAttributes,
): void {
  normalizeWith(
    { input, gamma, beta, output },
    attributes,
    chooseRows(input.device, 'layer-norm', input.size, gamma.size, describeForward),
  );
}

/** Gradients of layer normalisation by its input, gamma and beta. */
export function layerNormGradients(
  input: Tensor,
  gamma: Tensor,
  beta: Tensor,
  upstream: Tensor,
  attributes: LayerNormAttributes,
): [Tensor, Tensor, Tensor] {
  const { device } = input;
  const [gradient, byGamma, byBeta] = [input, gamma, gamma].map(({ shape }) => device.empty(shape));
  layerNormBackward(
    { input, gamma, beta, upstream, gradient, byGamma, byBeta },
    attributes,
    chooseRows(device, 'layer-norm-gradient', input.size, gamma.size, describeGradient),
  );
  return [gradient, byGamma, byBeta];
}

const layerNormOp = defineOp({
  name: 'layerNorm',
  shape: ([x, gamma, beta]: readonly [Tensor, Tensor, Tensor], { epsilon }: LayerNormAttributes) => {
    checkFloat('layerNorm', { x, gamma, beta });
    if (x.rank === 0) shapeError('layerNorm', 'x', '[..., D]', x.shape);
    checkVector('layerNorm', 'gamma', gamma, x.shape[x.rank - 1]);
    checkVector('layerNorm', 'beta', beta, x.shape[x.rank - 1]);
    if (!(epsilon >= 0)) shapeError('layerNorm', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: x.shape };
  },
  forward: ({ inputs: [input, gamma, beta], attributes, output }) =>
    normalizeRows(input, gamma, beta, output, attributes),
  backward: ({ inputs: [input, gamma, beta], attributes, gradient }) =>
    layerNormGradients(input, gamma, beta, gradient, attributes),
});

/**
 * Layer normalisation of each row: (x - mean) / sqrt(variance + epsilon) * gamma + beta, then the activation.
 *
 * @param x     [..., D]
 * @param gamma [D]
 * @param beta  [D]
 */
export const layerNorm = opFunction(
  layerNormOp,
  (x: Tensor, gamma: Tensor, beta: Tensor, options: { epsilon?: number; activation?: 'relu' } = {}): Tensor => {
    const { epsilon = 1e-5, activation } = options;
    return layerNormOp([x, gamma, beta], { epsilon, relu: activation === 'relu' });
  },
);

// ------------------------------------------------------------------ by channels

interface ChannelGrid {
  /** Of the kernels, in elements of `width`. */
  readonly params: {
    readonly length: number;
    readonly stride: number;
    readonly columns: number;
    readonly lanes: number;
  };
  readonly chunks: number;
  /** Workgroups to launch. */
  readonly workgroups: number;
  readonly width: Width;
}

/** How [images, pixels, channels] is spread over lanes, each taking about `pixelsALane` pixels of a channel. */
function channelGrid(
  images: number,
  pixels: number,
  channels: number,
  pixelsALane: number,
  maxChunks = Infinity,
): ChannelGrid {
  const width = channels % 4 === 0 ? 4 : 1;
  const columns = channels / width;
  const chunks = Math.max(1, Math.min(maxChunks, Math.ceil(pixels / pixelsALane)));
  const stride = chunks * columns;
  const lanes = images * stride;
  return {
    width,
    chunks,
    params: { length: pixels * columns, stride, columns, lanes },
    workgroups: Math.ceil(lanes / 64),
  };
}

/** Pixels a lane that are expected to be the fastest where it only maps values: fewer where there are thousands of lanes to keep busy. */
const pixelsMapped = (device: TensorDevice): number => (device.smallSubgroups ? 32 : 8);
/** And where it sums them; the sums of more chunks than these would be many to merge. */
const PIXELS_SUMMED = 32;
const MAX_CHUNKS = 128;
/** The tuner tries these as well. */
const PIXELS_MAPPED_TRIED = [2, 8, 32];
const PIXELS_SUMMED_TRIED = [8, 128];

/**
 * The grid of a kernel that maps values, with the tuned pixels a lane, or the expected ones. Group norm's kernels stand for all that map alike: forward they read one tensor,
 * backward three.
 */
function mapGrid(
  device: TensorDevice,
  pass: 'forward' | 'backward',
  images: number,
  pixels: number,
  channels: number,
): ChannelGrid {
  return channelGrid(
    images,
    pixels,
    channels,
    device.tuner.choose('channel-map', `${pass} ${images}x${pixels}x${channels}`, () =>
      describeMap(device, pass, images, pixels, channels),
    ),
  );
}

function describeMap(
  device: TensorDevice,
  pass: 'forward' | 'backward',
  images: number,
  pixels: number,
  channels: number,
): TuningProblem<number> {
  const width = channels % 4 === 0 ? 4 : 1;
  const kernel: Kernel =
    pass === 'forward' ? channelAffineKernel(width, true, false, false) : groupNormGradientKernel(width, true);
  const candidate = (pixelsALane: number): Candidate<number> => ({
    name: `${pixelsALane} pixels a lane`,
    variant: pixelsALane,
    tolerance: 1e-6,
    kernels: () => [kernel],
  });
  const map = [images, pixels, channels],
    statistics = [images, 2, channels],
    vector = [channels];
  const operands: Readonly<Record<string, Shape>> =
    pass === 'forward'
      ? { input: map, statistics, gamma: vector, beta: vector }
      : { input: map, output: map, upstream: map, statistics, gamma: vector, means: statistics };
  const result = pass === 'forward' ? 'output' : 'gradient';
  return {
    expected: candidate(pixelsMapped(device)),
    candidates: worthMeasuring(2 * images * pixels * channels) ? PIXELS_MAPPED_TRIED.map(candidate) : [],
    plain: 1,
    tensors: { ...operands, [result]: map },
    output: result,
    run: (pixelsALane, tensors) => {
      const { params, workgroups } = channelGrid(images, pixels, channels, pixelsALane);
      device.run(kernel, params, { ...tensors, residual: tensors.input }, linearGrid(workgroups));
    },
  };
}

interface GroupNormAttributes {
  readonly groups: number;
  readonly epsilon: number;
  readonly relu: boolean;
}

/** x as [images, pixels, channels]. */
function imagesOf(x: Tensor): { images: number; pixels: number; channels: number } {
  const images = x.shape[0];
  const channels = x.shape[x.rank - 1];
  return { images, channels, pixels: x.size === 0 ? 0 : x.size / images / channels };
}

/** Pixels times vec4s of a group that a subgroup is expected to take on alone, and the groups that it takes for the device to be busy. */
const WHOLE_GROUP = 16384;
const WHOLE_GROUPS = 8;

/** How statistics and sums of groups are taken: a group of an image by a subgroup in one dispatch (kernels/group-norm.ts), or in chunks of so many pixels a lane, merged in another. */
type GroupVariant = 'whole' | number;

type GroupSizes = Readonly<Record<'images' | 'pixels' | 'channels' | 'groups', number>>;
type Statistics = Readonly<Record<'input' | 'statistics', Tensor>>;
type GradientSums = Readonly<
  Record<'input' | 'output' | 'upstream' | 'statistics' | 'gamma' | 'sums' | 'means', Tensor>
>;

/** GPUs have more lanes than the subgroups of so many groups. */
function expectedGroups(device: TensorDevice, { images, pixels, channels, groups }: GroupSizes): GroupVariant {
  const members = channels / groups / 4;
  return device.smallSubgroups &&
    Number.isInteger(members) &&
    images * groups >= WHOLE_GROUPS &&
    pixels * members <= WHOLE_GROUP
    ? 'whole'
    : PIXELS_SUMMED;
}

/** The variant for statistics or gradient sums: the tuned one, or the expected one. */
function chooseGroups(device: TensorDevice, pass: 'statistics' | 'gradient', sizes: GroupSizes): GroupVariant {
  const { images, pixels, channels, groups } = sizes;
  return device.tuner.choose('group-norm', `${pass} ${images}x${pixels}x${channels} groups ${groups}`, () =>
    describeGroups(device, pass, sizes),
  );
}

function describeGroups(
  device: TensorDevice,
  pass: 'statistics' | 'gradient',
  sizes: GroupSizes,
): TuningProblem<GroupVariant> {
  const { images, pixels, channels, groups } = sizes;
  const lanes = device.subgroupSize,
    width = channels % 4 === 0 ? 4 : 1,
    forward = pass === 'statistics';
  const candidate = (variant: GroupVariant): Candidate<GroupVariant> => ({
    name:
      variant === 'whole'
        ? 'a subgroup a group'
        : `${channelGrid(images, pixels, channels, variant, MAX_CHUNKS).chunks} chunks`,
    variant,
    tolerance: roundingOf((pixels * channels) / groups),
    kernels: () =>
      variant === 'whole'
        ? [forward ? groupStatisticsSubgroupKernel(lanes) : groupGradientSubgroupKernel(lanes, true)]
        : forward
          ? [channelMomentsKernel(width), groupStatisticsKernel(lanes)]
          : [channelGradientSumsKernel(width, true, true), groupGradientKernel(lanes)],
  });
  const map = [images, pixels, channels],
    pairs = [images, 2, channels];
  const whole: GroupVariant[] = lanes > 0 && (channels / groups) % 4 === 0 ? ['whole'] : [];
  const common = {
    expected: candidate(expectedGroups(device, sizes)),
    plain: PIXELS_SUMMED,
    candidates: worthMeasuring(images * pixels * channels)
      ? [...whole, PIXELS_SUMMED, ...PIXELS_SUMMED_TRIED].map(candidate)
      : [],
  };
  return forward
    ? {
        ...common,
        tensors: { input: map, statistics: pairs },
        output: 'statistics',
        run: (variant, filled) => takeStatistics(filled as Statistics, sizes, MEASURED.epsilon, variant),
      }
    : {
        ...common,
        tensors: {
          input: map,
          output: map,
          upstream: map,
          statistics: pairs,
          gamma: [channels],
          sums: pairs,
          means: pairs,
        },
        output: ['sums', 'means'],
        values: { statistics: statisticsOf(sizes) },
        run: (variant, filled) => takeGradientSums(filled as GradientSums, sizes, true, variant),
      };
}

/** Statistics as those of groups are: the same for all channels of one. */
const statisticsOf =
  ({ channels, groups }: GroupSizes) =>
  (random: Random, count: number): Float32Array<ArrayBuffer> => {
    const members = channels / groups,
      ofGroups = random.uniformArray(count / members, -1, 1);
    return Float32Array.from({ length: count }, (_, i) => ofGroups[Math.floor(i / members)]);
  };

/** Sizes for the kernels that take a group of an image by a subgroup. */
function wholeGroups({
  images,
  pixels,
  channels,
  groups,
}: GroupSizes): Record<'pixels' | 'columns' | 'members' | 'groups' | 'items' | 'inverse', number> {
  return {
    pixels,
    columns: channels / 4,
    members: channels / groups / 4,
    groups,
    items: images * groups,
    inverse: groups / (pixels * channels),
  };
}

/** Writes `statistics` [images, 2, channels]: each channel's mean and 1 / deviation. */
function takeStatistics(
  { input, statistics }: Statistics,
  sizes: GroupSizes,
  epsilon: number,
  variant: GroupVariant,
): void {
  const { device } = input,
    { images, pixels, channels, groups } = sizes;
  if (variant === 'whole') {
    const whole = wholeGroups(sizes);
    return device.run(
      groupStatisticsSubgroupKernel(device.subgroupSize),
      { ...whole, epsilon },
      { input, statistics },
      linearGrid(whole.items),
    );
  }
  const { width, chunks, params, workgroups } = channelGrid(images, pixels, channels, variant, MAX_CHUNKS);
  const means = device.empty([images, chunks, channels]);
  const squares = device.empty([images, chunks, channels]);
  device.run(channelMomentsKernel(width), params, { input, means, squares }, linearGrid(workgroups));
  const items = images * groups;
  device.run(
    groupStatisticsKernel(device.subgroupSize),
    { pixels, channels, groups, chunks, items, inverse: groups / (pixels * channels), epsilon },
    { means, squares, statistics },
    linearGrid(Math.ceil(items / teamOf(device.subgroupSize).count)),
  );
}

/** Writes, both [images, 2, channels], `sums` over pixels of the gradient and of the gradient times the normalised x, and `means` over groups of gamma times those. */
function takeGradientSums(
  { input, output, upstream, statistics, gamma, sums, means }: GradientSums,
  sizes: GroupSizes,
  relu: boolean,
  variant: GroupVariant,
): void {
  const { device } = input,
    { images, pixels, channels, groups } = sizes;
  if (variant === 'whole') {
    const whole = wholeGroups(sizes);
    return device.run(
      groupGradientSubgroupKernel(device.subgroupSize, relu),
      whole,
      { input, output, upstream, statistics, gamma, sums, means },
      linearGrid(whole.items),
    );
  }
  const { width, chunks, params, workgroups } = channelGrid(images, pixels, channels, variant, MAX_CHUNKS);
  const partial = device.empty([images, chunks, 2, channels]);
  device.run(
    channelGradientSumsKernel(width, true, relu),
    params,
    { input, output, upstream, statistics, partial },
    linearGrid(workgroups),
  );
  const items = images * groups;
  device.run(
    groupGradientKernel(device.subgroupSize),
    { channels, groups, chunks, items, inverse: groups / (pixels * channels) },
    { partial, gamma, sums, means },
    linearGrid(Math.ceil(items / teamOf(device.subgroupSize).count)),
  );
}

const groupNormOp = defineOp({
  name: 'groupNorm',
  shape: (
    [x, gamma, beta, residual]: readonly [Tensor, Tensor, Tensor, Tensor | null],
    { groups, epsilon }: GroupNormAttributes,
  ) => {
    checkFloat('groupNorm', { x, gamma, beta, residual });
    if (x.rank < 2) shapeError('groupNorm', 'x', '[B, ..., C]', x.shape);
    const channels = x.shape[x.rank - 1];
    checkVector('groupNorm', 'gamma', gamma, channels);
    checkVector('groupNorm', 'beta', beta, channels);
    if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0) {
      shapeError('groupNorm', 'groups', `a divisor of the ${channels} channels`, String(groups));
    }
    checkResidual('groupNorm', residual, x);
    if (!(epsilon >= 0)) shapeError('groupNorm', 'epsilon', 'a number >= 0', String(epsilon));
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input, gamma, beta, residual], attributes: { groups, epsilon, relu }, output }) => {
    const { images, pixels, channels } = imagesOf(input);
    const statistics = device.empty([images, 2, channels]),
      sizes = { images, pixels, channels, groups };
    takeStatistics({ input, statistics }, sizes, epsilon, chooseGroups(device, 'statistics', sizes));
    const map = mapGrid(device, 'forward', images, pixels, channels);
    device.run(
      channelAffineKernel(map.width, true, residual !== null, relu),
      map.params,
      { input, statistics, gamma, beta, residual: residual ?? input, output },
      linearGrid(map.workgroups),
    );
    return { statistics };
  },
  backward: ({
    device,
    inputs,
    attributes: { groups, relu },
    output,
    saved: { statistics },
    gradient: upstream,
    needs,
  }) => {
    const [input, gamma, , residual] = inputs;
    const { images, pixels, channels } = imagesOf(input);
    const sums = device.empty([images, 2, channels]),
      means = device.empty([images, 2, channels]),
      sizes = { images, pixels, channels, groups };
    takeGradientSums(
      { input, output, upstream, statistics, gamma, sums, means },
      sizes,
      relu,
      chooseGroups(device, 'gradient', sizes),
    );
    const [betaGradient, gammaGradient] =
      needs[1] || needs[2] ? columnPairSums(device, sums, images, channels) : [null, null];
    const map = mapGrid(device, 'backward', images, pixels, channels);
    const both = residual !== null && needs[3] && relu;
    const gradient = needs[0] || both ? device.empty(input.shape) : null;
    let residualGradient = residual && needs[3] ? upstream : null;
    if (gradient && both) {
      residualGradient = device.empty(input.shape);
      device.run(
        groupNormResidualGradientKernel(map.width),
        map.params,
        { input, output, upstream, statistics, gamma, means, gradient, residualGradient },
        linearGrid(map.workgroups),
      );
    } else if (gradient) {
      device.run(
        groupNormGradientKernel(map.width, relu),
        map.params,
        { input, output, upstream, statistics, gamma, means, gradient },
        linearGrid(map.workgroups),
      );
    }
    return [gradient, gammaGradient, betaGradient, residualGradient];
  },
});

/**
 * Group normalisation of channels-last maps, with what follows it in residual networks:
 * act((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual), statistics over each image's pixels and a group of adjacent channels.
 *
 * @param x      [B, ..., C]
 * @param gamma  [C]
 * @param beta   [C]
 * @param groups divides C
 * @param options.residual of x's shape, added before the activation
 */
export const groupNorm = opFunction(
  groupNormOp,
  (
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    groups: number,
    options: { epsilon?: number; activation?: 'relu'; residual?: Tensor } = {},
  ): Tensor => {
    const { epsilon = 1e-5, activation, residual } = options;
    return groupNormOp([x, gamma, beta, residual ?? null], { groups, epsilon, relu: activation === 'relu' });
  },
);

interface ScaleShiftAttributes {
  readonly relu: boolean;
}

/**
 * Gradients before act(x * scale + shift + residual): `scaled` by x, `plain` by shift and residual, where asked for. `activated`: the output of the ReLU, if there
 * was one. `plain` may be `upstream` itself.
 */
export function scaleShiftGradients(
  upstream: Tensor,
  scale: Tensor,
  activated: Tensor | null,
  wanted: { readonly scaled: boolean; readonly plain: boolean },
): { scaled: Tensor | null; plain: Tensor | null } {
  const { device } = upstream;
  const channels = scale.size;
  const masksPlain = wanted.plain && activated !== null;
  if (!wanted.scaled && !masksPlain) return { scaled: null, plain: wanted.plain ? upstream : null };
  const { width, params, workgroups } = mapGrid(
    device,
    'backward',
    1,
    channels === 0 ? 0 : upstream.size / channels,
    channels,
  );
  const scaled = device.empty(upstream.shape);
  if (!masksPlain) {
    device.run(
      scaleShiftGradientKernel(width, activated !== null),
      params,
      { output: activated ?? upstream, upstream, scale, gradient: scaled },
      linearGrid(workgroups),
    );
    return { scaled, plain: wanted.plain ? upstream : null };
  }
  const plain = device.empty(upstream.shape);
  device.run(
    scaleShiftResidualGradientKernel(width),
    params,
    { output: activated, upstream, scale, gradient: scaled, residualGradient: plain },
    linearGrid(workgroups),
  );
  return { scaled, plain };
}

const scaleShiftOp = defineOp<readonly [Tensor, Tensor, Tensor, Tensor | null], ScaleShiftAttributes>({
  name: 'scaleShift',
  shape: ([x, scale, shift, residual]) => {
    checkFloat('scaleShift', { x, scale, shift, residual });
    if (x.rank === 0) shapeError('scaleShift', 'x', '[..., C]', x.shape);
    checkVector('scaleShift', 'scale', scale, x.shape[x.rank - 1]);
    checkVector('scaleShift', 'shift', shift, x.shape[x.rank - 1]);
    checkResidual('scaleShift', residual, x);
    return { shape: x.shape };
  },
  forward: ({ device, inputs: [input, scale, shift, residual], attributes: { relu }, output }) => {
    const channels = scale.size;
    const { width, params, workgroups } = mapGrid(
      device,
      'forward',
      1,
      channels === 0 ? 0 : input.size / channels,
      channels,
    );
    device.run(
      channelAffineKernel(width, false, residual !== null, relu),
      params,
      { input, statistics: scale, gamma: scale, beta: shift, residual: residual ?? input, output },
      linearGrid(workgroups),
    );
  },
  backward: ({
    device,
    inputs: [input, scale, , residual],
    attributes: { relu },
    output,
    gradient: upstream,
    needs,
  }) => {
    const channels = scale.size;
    const pixels = channels === 0 ? 0 : input.size / channels;
    const width = channels % 4 === 0 ? 4 : 1;
    const { scaled: gradient, plain: residualGradient } = scaleShiftGradients(upstream, scale, relu ? output : null, {
      scaled: needs[0],
      plain: residual !== null && needs[3],
    });
    if (!needs[1] && !needs[2]) return [gradient, null, null, residualGradient];
    const sums = channelGrid(1, pixels, channels, PIXELS_SUMMED, 4 * MAX_CHUNKS);
    const partial = device.empty([sums.chunks, 2, channels]);
    device.run(
      channelGradientSumsKernel(width, false, relu),
      sums.params,
      { input, output, upstream, statistics: scale, partial },
      linearGrid(sums.workgroups),
    );
    const [shiftGradient, scaleGradient] = columnPairSums(device, partial, sums.chunks, channels);
    return [gradient, scaleGradient, shiftGradient, residualGradient];
  },
});

/**
 * A factor and an offset a channel: act(x * scale + shift + residual). Batch norm with frozen statistics
 * (scale = gamma / sqrt(variance + epsilon)), with what follows it in residual networks.
 *
 * @param x     [..., C]
 * @param scale [C]
 * @param shift [C]
 * @param options.residual of x's shape, added before the activation
 */
export const scaleShift = opFunction(
  scaleShiftOp,
  (x: Tensor, scale: Tensor, shift: Tensor, options: { activation?: 'relu'; residual?: Tensor } = {}): Tensor => {
    const { activation, residual } = options;
    return scaleShiftOp([x, scale, shift, residual ?? null], { relu: activation === 'relu' });
  },
);
