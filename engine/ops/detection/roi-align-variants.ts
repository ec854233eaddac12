/**
 * The variants of RoIAlign and its gradient, and which one to run: source of the features and channels per invocation,
 * and for the gradient the kernel.
 */
import { MAX_LEVELS, roiAlignKernel, type FeatureAccess } from '../../../kernels/roi-align.ts';
import { roiAlignGradientKernel, roiAlignGradientSubgroupKernel } from '../../../kernels/roi-align-gradient.ts';
import type { Random } from '../../core/random.ts';
import { sizeOf, type Shape } from '../../core/shape.ts';
import type { Tensor, TensorDevice } from '../../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../../tuning/problem.ts';
import { prefersTextures, textureFits } from '../operand-textures.ts';

export interface PoolingVariant {
  readonly access: FeatureAccess;
  /** Vec4s of channels that one invocation computes. */
  readonly held: 1 | 4;
}

/** Which kernel computes the gradient with respect to the features of every level. */
export type PoolingGradientVariant = 'lanes' | 'subgroups';

/** The sizes and options that decide the variant. */
export interface PoolingCall {
  readonly boxes: Shape;
  /** The finest level first. */
  readonly features: readonly Shape[];
  /** Image pixels per feature pixel of the finest level. */
  readonly stride: number;
  readonly resolution: number;
  readonly samples: number;
}

/** Pixels that a sample reads. */
const PIXELS_PER_SAMPLE = 4;
/** Minimum reads per feature value for which copying the levels into operand textures pays. */
const MIN_READS_PER_COPY = 3;
/** Tolerance: other rounding of a coordinate moves a sample by this fraction of a pixel. */
const ROUNDING = 1e-4;

/** The shape class: sizes only. Strides move boxes to other levels, which hardly affects the speed of the kernels. */
function keyOf({ boxes: [images, perImage], features, resolution, samples }: PoolingCall): string {
  const sizes = features.map(([, height, width]) => `${height}x${width}`).join(' ');
  const bins = `${resolution}x${resolution} of ${samples}x${samples}`;
  return `${images}x${perImage} boxes by ${bins}, ${features[0][3]} channels of ${sizes}`;
}

const featuresOf = (features: readonly Shape[], name: string): Record<string, Shape> =>
  Object.fromEntries(features.map((shape, level) => [`${name}${level}`, shape]));

/** Features or gradients of a problem, the finest level first. */
const levelsOf = (tensors: Readonly<Record<string, Tensor>>, name: string): Tensor[] =>
  Array.from({ length: MAX_LEVELS }, (_, level) => tensors[`${name}${level}`]).filter((tensor) => tensor !== undefined);

/** Random boxes inside an image, xyxy. Their sides are a sixteenth of the image's side up to all of it. */
function boxesOf({
  features: [[, height, width]],
  stride,
}: PoolingCall): (random: Random, count: number) => Float32Array<ArrayBuffer> {
  const sides = [width * stride, height * stride];
  return (random, count) => {
    const values = new Float32Array(count);
    for (let at = 0; at < count; at += 4) {
      for (const axis of [0, 1]) {
        const side = sides[axis] * 2 ** (-4 * random.uniform());
        values[at + axis] = (sides[axis] - side) * random.uniform();
        values[at + axis + 2] = values[at + axis] + side;
      }
    }
    return values;
  };
}

/** Computes RoIAlign with a variant. The function must hold no tensors. */
export type RunPooling = (
  tensors: { readonly boxes: Tensor; readonly features: readonly Tensor[]; readonly output: Tensor },
  variant: PoolingVariant,
) => void;

/** The variant for a forward pass: the tuned one, or the expected one. */
export function choosePooling(device: TensorDevice, call: PoolingCall, run: RunPooling): PoolingVariant {
  return device.tuner.choose('roi-align', keyOf(call), () => describePooling(device, call, run));
}

function describePooling(device: TensorDevice, call: PoolingCall, run: RunPooling): TuningProblem<PoolingVariant> {
  const { boxes, features, resolution, samples } = call;
  const [[, , , depth]] = features;
  const output = [boxes[0] * boxes[1], resolution ** 2, depth];
  const vector = depth % 4 === 0;
  const whole = depth % 16 === 0;
  const reads = sizeOf(output) * PIXELS_PER_SAMPLE * samples ** 2;
  const copied = features.reduce((sum, shape) => sum + sizeOf(shape), 0);
  const readable =
    vector &&
    device.operandTextures &&
    features.every(([images, height, width]) => textureFits(device, images * height, (width * depth) / 4, true));
  const pays = prefersTextures(device) && (device.force.operands === 'texture' || reads > MIN_READS_PER_COPY * copied);
  const candidate = (access: FeatureAccess, held: 1 | 4): Candidate<PoolingVariant> => ({
    name: `${access}${held === 1 ? '' : ` x${held}`}`,
    variant: { access, held },
    tolerance: ROUNDING,
    kernels: () => [roiAlignKernel(access, held)],
  });
  const accesses: FeatureAccess[] = vector ? ['vec4', ...(readable ? (['texture'] as const) : [])] : [];
  return {
    expected: candidate(readable && pays ? 'texture' : vector ? 'vec4' : 'scalar', whole ? 4 : 1),
    candidates: worthMeasuring(reads)
      ? accesses.flatMap((access) => [candidate(access, 1), ...(whole ? [candidate(access, 4)] : [])])
      : [],
    plain: { access: vector ? 'vec4' : 'scalar', held: 1 },
    tensors: { boxes, ...featuresOf(features, 'features'), output },
    output: 'output',
    values: { boxes: boxesOf(call) },
    run: (variant, tensors) =>
      run({ boxes: tensors.boxes, features: levelsOf(tensors, 'features'), output: tensors.output }, variant),
  };
}

/** Computes the gradients of RoIAlign with a variant. The function must hold no tensors. */
export type RunPoolingGradient = (
  tensors: {
    readonly boxes: Tensor;
    readonly features: readonly Tensor[];
    readonly upstream: Tensor;
    readonly gradients: readonly Tensor[];
  },
  variant: PoolingGradientVariant,
) => void;

/** The variant for the gradients of all levels: the tuned one, or the expected one. */
export function choosePoolingGradient(
  device: TensorDevice,
  call: PoolingCall,
  run: RunPoolingGradient,
): PoolingGradientVariant {
  return device.tuner.choose('roi-align-gradient', keyOf(call), () => describeGradient(device, call, run));
}

function describeGradient(
  device: TensorDevice,
  call: PoolingCall,
  run: RunPoolingGradient,
): TuningProblem<PoolingGradientVariant> {
  const { boxes, features, resolution } = call;
  const lanes = device.subgroupSize;
  const depth = features[0][3];
  const upstream = [boxes[0] * boxes[1], resolution ** 2, depth];
  // Channels must fill whole subgroups.
  const possible = lanes > 0 && depth % (4 * lanes) === 0;
  const candidate = (variant: PoolingGradientVariant): Candidate<PoolingGradientVariant> => ({
    name: variant,
    variant,
    tolerance: ROUNDING,
    kernels: () => [
      variant === 'subgroups'
        ? roiAlignGradientSubgroupKernel(lanes, false)
        : roiAlignGradientKernel(depth % 4 === 0, false),
    ],
  });
  const gradients = featuresOf(features, 'gradient');
  return {
    expected: candidate(possible && device.smallSubgroups ? 'subgroups' : 'lanes'),
    plain: 'lanes',
    candidates: possible && worthMeasuring(sizeOf(upstream)) ? [candidate('lanes'), candidate('subgroups')] : [],
    // Only the shapes of the features are needed, and these are the shapes of the gradients. All variants add earlier
    // gradients in the same way.
    tensors: { boxes, upstream, ...gradients },
    output: Object.keys(gradients),
    values: { boxes: boxesOf(call) },
    run: (variant, tensors) => {
      const results = levelsOf(tensors, 'gradient');
      run({ boxes: tensors.boxes, features: results, upstream: tensors.upstream, gradients: results }, variant);
    },
  };
}
