/**
 * Max pooling in NHWC, output (or input) pixels by vec4s of channels; channels that are no multiple of 4 go one by one.
 * `channels` counts elements of the buffers: vec4s or single values.
 */
import { defineKernel, eachPlace, kernelFamily, type Kernel } from './kernel.ts';
import { linearBuffers, linearLoad, linearParams } from './linear.ts';
import { range } from './subgroups.ts';

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

/** Windows of so many pixels at most are unrolled: a loop costs its variables in every turn. */
const MAX_UNROLLED = 16;

/** WGSL of `visit` for every pixel of a window, in its order. */
const ofWindow = (kernel: number, visit: (ky: string, kx: string) => string): string =>
  kernel * kernel <= MAX_UNROLLED
    ? range(kernel)
        .flatMap((ky) => range(kernel).map((kx) => visit(`${ky}u`, `${kx}u`)))
        .join('\n  ')
    : `for (var ky = 0u; ky < ${kernel}u; ky++) { for (var kx = 0u; kx < ${kernel}u; kx++) { ${visit('ky', 'kx')} } }`;

/** WGSL of whether a value is NaN. */
const isNan = (u: string, value: string): string =>
  `((bitcast<${u}>(${value}) & ${u}(0x7fffffffu)) > ${u}(0x7f800000u))`;

/** The maximum of a window. What `max` and comparisons give with NaN is up to the adapter, so NaNs are told by their bits; as in PyTorch they win. */
function maximumOf(kernel: number, f: string, u: string, load: (ky: string, kx: string) => string): string {
  return `
  var best = ${load('0u', '0u')};
  var magnitude = ${u}();
  ${ofWindow(kernel, (ky, kx) => `{ let value = ${load(ky, kx)}; best = max(best, value); magnitude = max(magnitude, bitcast<${u}>(value) & ${u}(0x7fffffffu)); }`)}
  output[i] = bitcast<${f}>(select(bitcast<${u}>(best), ${u}(0x7fc00000u), magnitude > ${u}(0x7f800000u)));`;
}

/** The same, and which pixel it was: the first whatever it is, so that a window of -infinity has a winner too, then whatever is larger, or a NaN. */
function winnerOf(kernel: number, f: string, u: string, load: (ky: string, kx: string) => string): string {
  return `
  var best = ${f}();
  var winner = ${u}(0xffffffffu);
  ${ofWindow(
    kernel,
    (ky, kx) => `{
    let value = ${load(ky, kx)};
    let beats = ((value > best) & !${isNan(u, 'best')}) | ${isNan(u, 'value')} | (winner == ${u}(0xffffffffu));
    let wins = select(${f === 'f32' ? 'false' : 'vec4<bool>()'}, beats, y0 + ${ky} - p.padding < p.height && x0 + ${kx} - p.padding < p.width);
    best = select(best, value, wins);
    winner = select(winner, ${u}(${ky} * ${kernel}u + ${kx}), wins);
  }`,
  )}
  output[i] = best;
  winners[i] = winner;`;
}

/**
 * `kernel`: the window's side; `texture`: the input is a linear operand texture, of vec4s. `winners`: also writes which pixel of its window each maximum was, which its
 * gradient needs.
 */
export const maxPool2dKernel = kernelFamily(
  (vec4: boolean, texture: boolean, kernel: number, winners: boolean, lanes: number): Kernel => {
    const [f, u] = vec4 ? ['vec4f', 'vec4u'] : ['f32', 'u32'];
    // In the padding the pixel at the border is met again: no load is left out, and to a maximum it makes no difference, since the window has that pixel anyway.
    const inside = (at: string, size: string): string =>
      `(clamp(${at}, p.padding, p.padding + ${size} - 1u) - p.padding)`;
    const load = (ky: string, kx: string): string =>
      linearLoad(
        texture,
        'input',
        `((line + ${inside(`y0 + ${ky}`, 'p.height')} * p.width + ${inside(`x0 + ${kx}`, 'p.width')}) * p.channels + c)`,
      );
    return defineKernel<string, string>({
      name: `max_pool2d_${kernel}x${kernel}_f32${vec4 ? '_vec4' : ''}${texture ? '_texture' : ''}${winners ? '_winners' : ''}`,
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
  ${(winners ? winnerOf : maximumOf)(kernel, f, u, load)}`,
      ),
    });
  },
);

/** Gathers: an input pixel takes the gradient of every window whose winner it is. */
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
  // Windows that hold the pixel: those that start at most kernel - 1 before it.
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
