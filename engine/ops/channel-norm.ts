/** How the kernels of group norm and scaleShift are spread over images, pixels and channels. */
import { channelAffineKernel } from '../../kernels/channel-norm.ts';
import { groupNormGradientKernel } from '../../kernels/group-norm.ts';
import { linearGrid, type Kernel } from '../../kernels/kernel.ts';
import type { Width } from '../../kernels/teams.ts';
import type { Shape } from '../core/shape.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';

/** Sizes of a channels-last map. */
export interface MapSizes {
  readonly images: number;
  readonly pixels: number;
  readonly channels: number;
}

interface ChannelGrid {
  /** Params of the kernels; they count elements of `width` values. */
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

/** Spreads [images, pixels, channels] over invocations that each handle about `share` pixels of a channel. */
export function channelGrid({ images, pixels, channels }: MapSizes, share: number, maxChunks = Infinity): ChannelGrid {
  const width = channels % 4 === 0 ? 4 : 1;
  const columns = channels / width;
  const chunks = Math.max(1, Math.min(maxChunks, Math.ceil(pixels / share)));
  const stride = chunks * columns;
  const lanes = images * stride;
  return {
    width,
    chunks,
    params: { length: pixels * columns, stride, columns, lanes },
    workgroups: Math.ceil(lanes / 64),
  };
}

/**
 * Expected best number of pixels per invocation where values are mapped: few, to keep the thousands of lanes of a GPU
 * busy.
 */
const pixelsMapped = (device: TensorDevice): number => (device.smallSubgroups ? 32 : 8);
/** Other numbers that the tuner tries. */
const PIXELS_MAPPED_TRIED = [2, 8, 32];
/** Expected best number of pixels per invocation where values are summed. */
export const PIXELS_SUMMED = 32;
/** Maximum number of chunks: merging the sums of more would take too long. */
export const MAX_CHUNKS = 128;

type Pass = 'forward' | 'backward';

/**
 * The grid of a kernel that maps values, with the tuned or the expected pixels per invocation. Group norm's kernels are
 * measured for all kernels that map values: forward they read one tensor, backward three.
 */
export function mapGrid(device: TensorDevice, pass: Pass, sizes: MapSizes): ChannelGrid {
  const { images, pixels, channels } = sizes;
  const share = device.tuner.choose('channel-map', `${pass} ${images}x${pixels}x${channels}`, () =>
    describeMap(device, pass, sizes),
  );
  return channelGrid(sizes, share);
}

function describeMap(device: TensorDevice, pass: Pass, sizes: MapSizes): TuningProblem<number> {
  const { images, pixels, channels } = sizes;
  const width = channels % 4 === 0 ? 4 : 1;
  const kernel: Kernel =
    pass === 'forward' ? channelAffineKernel(width, true, false, false) : groupNormGradientKernel(width, true);
  const candidate = (share: number): Candidate<number> => ({
    name: `${share} pixels per lane`,
    variant: share,
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
    run: (share, tensors) => {
      const { params, workgroups } = channelGrid(sizes, share);
      device.run(kernel, params, { ...tensors, residual: tensors.input }, linearGrid(workgroups));
    },
  };
}
