/** Statistics and gradient sums of group norm, as the tuned or the expected variant. */
import { channelGradientSumsKernel } from '../../kernels/channel-norm.ts';
import {
  channelMomentsKernel,
  groupGradientKernel,
  groupGradientSubgroupKernel,
  groupStatisticsKernel,
  groupStatisticsSubgroupKernel,
} from '../../kernels/group-norm.ts';
import { linearGrid } from '../../kernels/kernel.ts';
import { teamOf, widthOf } from '../../kernels/teams.ts';
import type { Random } from '../core/random.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { channelLaunch, MAX_CHUNKS, PIXELS_SUMMED, type MapSizes } from './channel-norm.ts';
import { roundingOf } from './rounding.ts';

/** Maximum number of vec4s of a group that one subgroup is expected to handle well. */
const MAX_WHOLE_GROUP = 16384;
/** Minimum number of groups that keep the device busy. */
const MIN_WHOLE_GROUPS = 8;
/** Other numbers of pixels per invocation that the tuner tries. */
const PIXELS_SUMMED_TRIED = [8, 128];
/** Epsilon of the problems that are measured. */
const MEASURED_EPSILON = 1e-5;

/**
 * How statistics and gradient sums are computed. 'whole': a subgroup handles one group of one image, in one dispatch.
 * A number: pixels per invocation of a first dispatch, whose chunks a second dispatch merges.
 */
export type GroupVariant = 'whole' | number;

export interface GroupSizes extends MapSizes {
  readonly groups: number;
}

type Pass = 'statistics' | 'gradient';
/** Tensors of `writeStatistics`. */
type Statistics = Readonly<Record<'input' | 'statistics', Tensor>>;
/** Tensors of `writeGradientSums`. */
type GradientSums = Readonly<
  Record<'input' | 'output' | 'upstream' | 'statistics' | 'gamma' | 'sums' | 'means', Tensor>
>;

/** The expected variant. On GPUs, one subgroup per group would leave most lanes idle. */
function expectedGroups(device: TensorDevice, { images, pixels, channels, groups }: GroupSizes): GroupVariant {
  const members = channels / groups / 4;
  return device.smallSubgroups &&
    Number.isInteger(members) &&
    images * groups >= MIN_WHOLE_GROUPS &&
    pixels * members <= MAX_WHOLE_GROUP
    ? 'whole'
    : PIXELS_SUMMED;
}

/** The tuned or the expected variant for statistics or gradient sums. */
export function chooseGroups(device: TensorDevice, pass: Pass, sizes: GroupSizes): GroupVariant {
  const { images, pixels, channels, groups } = sizes;
  return device.tuner.choose('group-norm', `${pass} ${images}x${pixels}x${channels} groups ${groups}`, () =>
    describeGroups(device, pass, sizes),
  );
}

function describeGroups(device: TensorDevice, pass: Pass, sizes: GroupSizes): TuningProblem<GroupVariant> {
  const { images, pixels, channels, groups } = sizes;
  const lanes = device.subgroupSize;
  const width = widthOf(channels);
  const forward = pass === 'statistics';
  const candidate = (variant: GroupVariant): Candidate<GroupVariant> => ({
    name: variant === 'whole' ? 'a subgroup per group' : `${channelLaunch(sizes, variant, MAX_CHUNKS).chunks} chunks`,
    variant,
    tolerance: roundingOf((pixels * channels) / groups),
    kernels: () =>
      variant === 'whole'
        ? [forward ? groupStatisticsSubgroupKernel(lanes) : groupGradientSubgroupKernel(lanes, true)]
        : forward
          ? [channelMomentsKernel(width), groupStatisticsKernel(lanes)]
          : [channelGradientSumsKernel(width, true, true), groupGradientKernel(lanes)],
  });
  const map = [images, pixels, channels];
  const pairs = [images, 2, channels];
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
        run: (variant, filled) => writeStatistics(filled as Statistics, sizes, MEASURED_EPSILON, variant),
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
        run: (variant, filled) => writeGradientSums(filled as GradientSums, sizes, true, variant),
      };
}

/** Random statistics that are equal for all channels of a group, as real ones are. */
const statisticsOf =
  ({ channels, groups }: GroupSizes) =>
  (random: Random, count: number): Float32Array<ArrayBuffer> => {
    const members = channels / groups;
    const perGroup = random.uniformArray(count / members, -1, 1);
    return Float32Array.from({ length: count }, (_, i) => perGroup[Math.floor(i / members)]);
  };

/** Params of the kernels where a subgroup handles one group of one image. */
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

/** Writes `statistics` [images, 2, channels]: mean and 1 / standard deviation of each channel's group. */
export function writeStatistics(
  { input, statistics }: Statistics,
  sizes: GroupSizes,
  epsilon: number,
  variant: GroupVariant,
): void {
  const { device } = input;
  const { images, pixels, channels, groups } = sizes;
  if (variant === 'whole') {
    const whole = wholeGroups(sizes);
    device.run(
      groupStatisticsSubgroupKernel(device.subgroupSize),
      { ...whole, epsilon },
      { input, statistics },
      linearGrid(whole.items),
    );
    return;
  }
  const { width, chunks, params, grid } = channelLaunch(sizes, variant, MAX_CHUNKS);
  const means = device.empty([images, chunks, channels]);
  const squares = device.empty([images, chunks, channels]);
  device.run(channelMomentsKernel(width), params, { input, means, squares }, grid);
  const items = images * groups;
  device.run(
    groupStatisticsKernel(device.subgroupSize),
    { pixels, channels, groups, chunks, items, inverse: groups / (pixels * channels), epsilon },
    { means, squares, statistics },
    linearGrid(Math.ceil(items / teamOf(device.subgroupSize).count)),
  );
}

/**
 * Writes `sums` and `means`, both [images, 2, channels]. `sums`: sums over pixels of the gradient and of the gradient
 * times the normalized x. `means`: means over each group of gamma times these.
 */
export function writeGradientSums(
  { input, output, upstream, statistics, gamma, sums, means }: GradientSums,
  sizes: GroupSizes,
  relu: boolean,
  variant: GroupVariant,
): void {
  const { device } = input;
  const { images, pixels, channels, groups } = sizes;
  if (variant === 'whole') {
    const whole = wholeGroups(sizes);
    device.run(
      groupGradientSubgroupKernel(device.subgroupSize, relu),
      whole,
      { input, output, upstream, statistics, gamma, sums, means },
      linearGrid(whole.items),
    );
    return;
  }
  const { width, chunks, params, grid } = channelLaunch(sizes, variant, MAX_CHUNKS);
  const partial = device.empty([images, chunks, 2, channels]);
  device.run(
    channelGradientSumsKernel(width, true, relu),
    params,
    { input, output, upstream, statistics, partial },
    grid,
  );
  const items = images * groups;
  device.run(
    groupGradientKernel(device.subgroupSize),
    { channels, groups, chunks, items, inverse: groups / (pixels * channels) },
    { partial, gamma, sums, means },
    linearGrid(Math.ceil(items / teamOf(device.subgroupSize).count)),
  );
}
