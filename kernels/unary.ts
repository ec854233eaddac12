/** Elementwise functions of one tensor and their derivatives. Invocations handle whole vec4s. */
import { defineKernel, eachElement, kernelFamily } from './kernel.ts';

/**
 * WGSL over vec4f of f(x), and of its derivative in terms of input `x` and output `y`. `p.a` and `p.b` are the op's
 * numbers. A new function needs an entry here and a line in engine/ops/unary.ts.
 */
export const UNARY_FUNCTIONS = {
  relu: { value: 'max(x, vec4f())', derivative: 'select(vec4f(), vec4f(1.0), y > vec4f())' },
  sigmoid: { value: '1.0 / (1.0 + exp(-x))', derivative: 'y * (1.0 - y)' },
  exp: { value: 'exp(x)', derivative: 'y' },
  log: { value: 'log(x)', derivative: '1.0 / x' },
  sqrt: { value: 'sqrt(x)', derivative: '0.5 / y' },
  square: { value: 'x * x', derivative: '2.0 * x' },
  abs: { value: 'abs(x)', derivative: 'sign(x)' },
  tanh: { value: 'tanh(x)', derivative: '1.0 - y * y' },
  affine: { value: 'p.a * x + p.b', derivative: 'vec4f(p.a)' },
} as const;

export type UnaryFunction = keyof typeof UNARY_FUNCTIONS;

export const unaryKernel = kernelFamily((f: UnaryFunction, lanes: number) =>
  defineKernel({
    name: `${f}_f32_vec4`,
    workgroup: [lanes],
    params: { count4: 'u32', a: 'f32', b: 'f32' },
    buffers: { input: 'read vec4f', output: 'write vec4f' },
    body: eachElement(lanes, 'p.count4', `let x = input[i]; output[i] = ${UNARY_FUNCTIONS[f].value};`),
  }),
);

export const unaryGradientKernel = kernelFamily((f: UnaryFunction, lanes: number) =>
  defineKernel({
    name: `${f}_gradient_f32_vec4`,
    workgroup: [lanes],
    params: { count4: 'u32', a: 'f32', b: 'f32' },
    buffers: { input: 'read vec4f', output: 'read vec4f', upstream: 'read vec4f', gradient: 'write vec4f' },
    body: eachElement(
      lanes,
      'p.count4',
      `let x = input[i]; let y = output[i]; gradient[i] = upstream[i] * (${UNARY_FUNCTIONS[f].derivative});`,
    ),
  }),
);
