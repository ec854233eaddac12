/**
 * Kernels that group norm and scaleShift share: per-channel arithmetic on channels-last maps [images, pixels,
 * channels], with residual and ReLU fused.
 *
 * Each invocation handles one channel (or four) of one image and strides over the pixels. So it loads the channel's
 * coefficients once, and neighboring invocations read neighboring memory. No values are exchanged, so one form serves
 * every adapter.
 *
 * Params count elements of `width` values: columns = channels, length = pixels * columns, stride = chunks * columns,
 * lanes = images * stride. Invocation r of an image handles the image's elements r, r + stride, r + 2 stride, ...,
 * which all belong to channel r % columns.
 *
 * `statistics` [images, 2, channels]: mean and 1 / standard deviation of each channel's group.
 */
import { defineKernel, kernelFamily } from './kernel.ts';
import { ACCESS, ELEMENT, type Width } from './teams.ts';

export const CHANNEL_PARAMS = { length: 'u32', stride: 'u32', columns: 'u32', lanes: 'u32' } as const;
/** WGSL that finds the image, the first element `r` and the channel `c` of an invocation. */
export const CHANNEL_SCOPE = `
  let t = linearGroup * 64u + lane;
  if (t >= p.lanes) { return; }
  let image = t / p.stride;
  let base = image * p.length;
  let r = t - image * p.stride;
  let c = r % p.columns;`;
/** WGSL that loads the channel's `mean` and `scale` = 1 / standard deviation. */
export const CHANNEL_STATISTICS = `
  let mean = statistics[image * 2u * p.columns + c];
  let scale = statistics[(image * 2u + 1u) * p.columns + c];`;

/**
 * y = act(x * gamma + beta + residual). With `normalize`, `statistics` normalizes x first.
 * Without `normalize` the kernel does not read `statistics`. Without `residual` it does not read the residual.
 */
export const channelAffineKernel = kernelFamily(
  (width: Width, normalize: boolean, residual: boolean, relu: boolean) => {
    const V = ELEMENT[width];
    const centered = normalize ? '(input[base + i] - mean)' : 'input[base + i]';
    const value = `${centered} * factor + shift${residual ? ' + residual[base + i]' : ''}`;
    return defineKernel({
      name: [
        `channel_affine_f32_${ACCESS[width]}`,
        normalize ? '_normalize' : '',
        residual ? '_residual' : '',
        relu ? '_relu' : '',
      ].join(''),
      workgroup: [64],
      params: CHANNEL_PARAMS,
      buffers: {
        input: `read ${V}`,
        statistics: `read ${V}`,
        gamma: `read ${V}`,
        beta: `read ${V}`,
        residual: `read ${V}`,
        output: `write ${V}`,
      },
      body: `${CHANNEL_SCOPE}${normalize ? CHANNEL_STATISTICS : ''}
  let factor = gamma[c]${normalize ? ' * scale' : ''};
  let shift = beta[c];
  for (var i = r; i < p.length; i += p.stride) { output[base + i] = ${relu ? `max(${value}, ${V}())` : value}; }`,
    });
  },
);

/** WGSL of the upstream gradient, zero where the ReLU's output is zero. */
export const maskedUpstream = (width: Width, relu: boolean): string =>
  relu
    ? `select(${ELEMENT[width]}(), upstream[base + i], output[base + i] > ${ELEMENT[width]}())`
    : 'upstream[base + i]';

/**
 * Each invocation's sums of u and of u x: partial [images, chunks, 2, channels]. u is the upstream gradient, zero where
 * the ReLU's output is zero. x is normalized with `normalize`.
 */
export const channelGradientSumsKernel = kernelFamily((width: Width, normalize: boolean, relu: boolean) => {
  const V = ELEMENT[width];
  return defineKernel({
    name: `channel_gradient_sums_f32_${ACCESS[width]}${normalize ? '_normalize' : ''}${relu ? '_relu' : ''}`,
    workgroup: [64],
    params: CHANNEL_PARAMS,
    buffers: {
      input: `read ${V}`,
      output: `read ${V}`,
      upstream: `read ${V}`,
      statistics: `read ${V}`,
      partial: `write ${V}`,
    },
    body: `${CHANNEL_SCOPE}${normalize ? CHANNEL_STATISTICS : ''}
  var first = ${V}();
  var second = ${V}();
  for (var i = r; i < p.length; i += p.stride) {
    let u = ${maskedUpstream(width, relu)};
    first += u;
    second += u * ${normalize ? '((input[base + i] - mean) * scale)' : 'input[base + i]'};
  }
  let o = t / p.columns * 2u * p.columns + c;
  partial[o] = first;
  partial[o + p.columns] = second;`,
  });
});
