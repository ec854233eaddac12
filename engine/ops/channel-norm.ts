/** How the kernels of group norm and scaleShift are spread over images, pixels and channels. */
import { channelAffineKernel } from '../../kernels/channel-norm.ts';
import { groupNormGradientKernel } from '../../kernels/group-norm.ts';
import { itemGrid, type Grid, type Kernel } from '../../kernels/kernel.ts';
import { widthOf, type Width } from '../../kernels/teams.ts';
import type { Shape } from '../core/shape.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';

/** Sizes of a channels-last map. */
export interface MapSizes {
  readonly images: number;
  readonly pixels: number;
  readonly channels: number;
}

interface ChannelLaunch {
  /** Params of the kernels; they count elements of `width` values. */
  readonly params: {
    readonly length: number;
    readonly stride: number;
    readonly columns: number;
    readonly lanes: number;
  };
  readonly chunks: number;
  readonly grid: Grid;
  readonly width: Width;
}

/** Spreads [images, pixels, channels] over invocations that each handle about `share` pixels of a channel. */
export function channelLaunch(
  { images, pixels, channels }: MapSizes,
  share: number,
  maxChunks = Infinity,
): ChannelLaunch {
  const width = widthOf(channels);
  const columns = channels / width;
  const chunks = Math.max(1, Math.min(maxChunks, Math.ceil(pixels / share)));
  const stride = chunks * columns;
  const lanes = images * stride;
  return {
    width,
    chunks,
    params: { length: pixels * columns, stride, columns, lanes },
    grid: itemGrid(lanes),
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
 * The launch of a kernel that maps values, with the tuned or the expected pixels per invocation. The tuner measures the
 * kernels of group norm for all kernels that map values. In the forward pass these read one tensor, in the backward
 * pass three.
 */
export function mapLaunch(device: TensorDevice, pass: Pass, sizes: MapSizes): ChannelLaunch {
  const { images, pixels, channels } = sizes;
  const share = device.tuner.choose('channel-map', `${pass} ${images}x${pixels}x${channels}`, () =>
    describeMap(device, pass, sizes),
  );
  return channelLaunch(sizes, share);
}

function describeMap(device: TensorDevice, pass: Pass, sizes: MapSizes): TuningProblem<number> {
  const { images, pixels, channels } = sizes;
  const width = widthOf(channels);
  const kernel: Kernel =
    pass === 'forward' ? channelAffineKernel(width, true, false, false) : groupNormGradientKernel(width, true);
  const candidate = (share: number): Candidate<number> => ({
    name: `${share} pixels per lane`,
    variant: share,
    tolerance: 1e-6,
    kernels: () => [kernel],
  });
  const map = [images, pixels, channels];
  const statistics = [images, 2, channels];
  const vector = [channels];
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
      const { params, grid } = channelLaunch(sizes, share);
      device.run(kernel, params, { ...tensors, residual: tensors.input }, grid);
    },
  };
}
