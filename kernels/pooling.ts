/**
 * Max pooling of NHWC maps and its gradient. Invocations handle vec4s of channels, or single channels where the number
 * of channels is not a multiple of 4. `channels` counts buffer elements: vec4s or single values.
 */
import { defineKernel, eachPlace, kernelFamily, type Kernel } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import { range } from './repeat.ts';

const PARAMS = {
  count: 'u32',
  height: 'u32',
  width: 'u32',
  outH: 'u32',
  outW: 'u32',
  channels: 'u32',
  kernel: 'u32',
  stride: 'u32',
  padding: 'u32',
} as const;

/** Maximum number of pixels of a window that is unrolled. A loop would update its variables at every pixel. */
const MAX_UNROLLED = 16;

/** WGSL of `visit` for every pixel of a window, in row-major order. */
const eachWindowPixel = (kernel: number, visit: (ky: string, kx: string) => string): string =>
  kernel * kernel <= MAX_UNROLLED
    ? range(kernel)
        .flatMap((ky) => range(kernel).map((kx) => visit(`${ky}u`, `${kx}u`)))
        .join('\n  ')
    : `for (var ky = 0u; ky < ${kernel}u; ky++) { for (var kx = 0u; kx < ${kernel}u; kx++) { ${visit('ky', 'kx')} } }`;

/** WGSL of whether a value is NaN. */
const isNan = (u: string, value: string): string =>
  `((bitcast<${u}>(${value}) & ${u}(0x7fffffffu)) > ${u}(0x7f800000u))`;

/** How a kernel reads a window. */
interface Window {
  /** The window's side. */
  readonly kernel: number;
  /** WGSL types of a buffer element, as float and as unsigned integer. */
  readonly f: 'f32' | 'vec4f';
  readonly u: 'u32' | 'vec4u';
  /** WGSL of the value at a pixel of the window. */
  readonly load: (ky: string, kx: string) => string;
}

/**
 * WGSL of the maximum of a window. As in PyTorch, NaN wins. The results of `max` and comparisons with NaN depend on the
 * adapter, so NaNs are recognized by their bits.
 */
function maximumOf({ kernel, f, u, load }: Window): string {
  return `
  var best = ${load('0u', '0u')};
  var magnitude = ${u}();
  ${eachWindowPixel(
    kernel,
    (ky, kx) => `{
    let value = ${load(ky, kx)};
    best = max(best, value);
    magnitude = max(magnitude, bitcast<${u}>(value) & ${u}(0x7fffffffu));
  }`,
  )}
  output[i] = bitcast<${f}>(select(bitcast<${u}>(best), ${u}(0x7fc00000u), magnitude > ${u}(0x7f800000u)));`;
}

/**
 * As `maximumOf`, and also the position of the maximum, the winner. The first pixel inside the map always becomes the
 * winner, so that a window of -infinity has one. A later pixel becomes the winner if its value is larger, or NaN.
 */
function winnerOf({ kernel, f, u, load }: Window): string {
  const none = f === 'f32' ? 'false' : 'vec4<bool>()';
  return `
  var best = ${f}();
  var winner = ${u}(0xffffffffu);
  ${eachWindowPixel(
    kernel,
    (ky, kx) => `{
    let value = ${load(ky, kx)};
    let beats = ((value > best) & !${isNan(u, 'best')}) | ${isNan(u, 'value')} | (winner == ${u}(0xffffffffu));
    let inside = y0 + ${ky} - p.padding < p.height && x0 + ${kx} - p.padding < p.width;
    let wins = select(${none}, beats, inside);
    best = select(best, value, wins);
    winner = select(winner, ${u}(${ky} * ${kernel}u + ${kx}), wins);
  }`,
  )}
  output[i] = best;
  winners[i] = winner;`;
}

type ForwardForm = {
  readonly vec4: boolean;
  /** Whether the input is a linear operand texture of vec4s. */
  readonly texture: boolean;
  /** The window's side. */
  readonly kernel: number;
  /** Whether to write which pixel of its window each maximum is; the gradient needs this. */
  readonly winners: boolean;
  /** Invocations per workgroup. */
  readonly lanes: number;
};

/** Maximum over windows. */
export const maxPool2dKernel = kernelFamily(({ vec4, texture, kernel, winners, lanes }: ForwardForm): Kernel => {
  const f = vec4 ? 'vec4f' : 'f32';
  const u = vec4 ? 'vec4u' : 'u32';
  // In the padding the nearest pixel at the border is read again. The window contains that pixel anyway, so the maximum
  // does not change.
  const inside = (at: string, size: string): string =>
    `(clamp(${at}, p.padding, p.padding + ${size} - 1u) - p.padding)`;
  const load = (ky: string, kx: string): string => {
    const [y, x] = [inside(`y0 + ${ky}`, 'p.height'), inside(`x0 + ${kx}`, 'p.width')];
    return linearLoad(texture, 'input', `((line + ${y} * p.width + ${x}) * p.channels + c)`);
  };
  return defineKernel<string, string>({
    name: [
      `max_pool2d_${kernel}x${kernel}_f32`,
      vec4 ? '_vec4' : '',
      texture ? '_texture' : '',
      winners ? '_winners' : '',
    ].join(''),
    workgroup: [lanes],
    params: { ...PARAMS, ...linearParams(texture, 'input') },
    buffers: {
      ...(vec4 ? linearBuffers(texture, 'input') : { input: 'read f32' as const }),
      output: vec4 ? 'write vec4f' : 'write f32',
      ...(winners ? { winners: vec4 ? ('write vec4u' as const) : ('write u32' as const) } : {}),
    },
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['c', 'p.channels'],
          ['ox', 'p.outW'],
          ['oy', 'p.outH'],
        ],
        outermost: 'image',
      },
      `
  let x0 = ox * p.stride;
  let y0 = oy * p.stride;
  let line = image * p.height * p.width;
  ${(winners ? winnerOf : maximumOf)({ kernel, f, u, load })}`,
    ),
  });
});

/** Gradient: an input pixel sums the upstream gradients of all windows that it won. */
export const maxPool2dGradientKernel = kernelFamily((vec4: boolean, lanes: number) => {
  const f = vec4 ? 'vec4f' : 'f32';
  const u = vec4 ? 'vec4u' : 'u32';
  return defineKernel({
    name: `max_pool2d_gradient_f32${vec4 ? '_vec4' : ''}`,
    workgroup: [lanes],
    params: PARAMS,
    buffers: vec4
      ? { upstream: 'read vec4f', winners: 'read vec4u', gradient: 'write vec4f' }
      : { upstream: 'read f32', winners: 'read u32', gradient: 'write f32' },
    body: eachPlace(
      {
        lanes,
        count: 'p.count',
        sizes: [
          ['c', 'p.channels'],
          ['column', 'p.width'],
          ['line', 'p.height'],
        ],
        outermost: 'image',
      },
      `
  let x = column + p.padding;
  let y = line + p.padding;
  // Windows that contain the pixel start at most kernel - 1 before it.
  let firstX = (max(x + 1u, p.kernel) - p.kernel + p.stride - 1u) / p.stride;
  let firstY = (max(y + 1u, p.kernel) - p.kernel + p.stride - 1u) / p.stride;
  var sum = ${f}();
  for (var oy = firstY; oy <= min(y / p.stride, p.outH - 1u); oy++) {
    for (var ox = firstX; ox <= min(x / p.stride, p.outW - 1u); ox++) {
      let window = ((image * p.outH + oy) * p.outW + ox) * p.channels + c;
      let own = ${u}((y - oy * p.stride) * p.kernel + x - ox * p.stride);
      sum += select(${f}(), upstream[window], winners[window] == own);
    }
  }
  gradient[i] = sum;`,
    ),
  });
});
