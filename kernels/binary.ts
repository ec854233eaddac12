/** Elementwise functions of two tensors with broadcasting, and their derivatives. */
import { defineKernel, eachElement, kernelFamily, type BufferSpec, type ScalarType } from './kernel.ts';
import { range } from './repeat.ts';
import { ACCESS, ELEMENT, type Width } from './teams.ts';

/**
 * WGSL over `T` (vec4f or f32) of f(x, y), and of the gradients with respect to x and y, where `u` is the upstream
 * gradient. At ties of maximum and minimum each side gets half of the gradient, as in PyTorch.
 * A new function needs an entry here and a line in engine/ops/binary.ts.
 */
const BINARY_FUNCTIONS = {
  add: { value: 'x + y', xGradient: 'u', yGradient: 'u' },
  sub: { value: 'x - y', xGradient: 'u', yGradient: '-u' },
  mul: { value: 'x * y', xGradient: 'u * y', yGradient: 'u * x' },
  div: { value: 'x / y', xGradient: 'u / y', yGradient: '-u * x / (y * y)' },
  maximum: {
    value: 'max(x, y)',
    xGradient: 'select(select(T(), 0.5 * u, x == y), u, x > y)',
    yGradient: 'select(select(T(), 0.5 * u, x == y), u, y > x)',
  },
  minimum: {
    value: 'min(x, y)',
    xGradient: 'select(select(T(), 0.5 * u, x == y), u, x < y)',
    yGradient: 'select(select(T(), 0.5 * u, x == y), u, y < x)',
  },
} as const;

export type BinaryFunction = keyof typeof BINARY_FUNCTIONS;

/**
 * How an operand is read at output element i. The output has `rank` dimensions, the innermost of `n` elements.
 * - `full`: at i.
 * - `scalar`: one value for all elements.
 * - `vector`: along the innermost dimension, and by strides over the others.
 * - `splat`: by strides over the other dimensions only.
 */
export type OperandForm = 'full' | 'scalar' | 'vector' | 'splat';

/** Maximum number of dimensions after adjacent dimensions of equal kind are merged. */
export const MAX_RANK = 5;

/**
 * size1 .. size3: sizes of the output's dimensions between the first and the innermost. x0 .. x3 and y0 .. y3: each
 * operand's strides in the dimensions before the innermost, in elements of the operand.
 */
const PARAMS = {
  count: 'u32',
  n: 'u32',
  size1: 'u32',
  size2: 'u32',
  size3: 'u32',
  x0: 'u32',
  x1: 'u32',
  x2: 'u32',
  x3: 'u32',
  y0: 'u32',
  y1: 'u32',
  y2: 'u32',
  y3: 'u32',
} as const satisfies Record<string, ScalarType>;
export type BinaryParams = Readonly<Record<keyof typeof PARAMS, number>>;

const elementOf = (form: OperandForm, width: Width): 'f32' | 'vec4f' =>
  width === 4 && (form === 'full' || form === 'vector') ? 'vec4f' : 'f32';

interface Operands {
  readonly specs: { readonly a: BufferSpec; readonly b: BufferSpec };
  readonly text: string;
}

/** Options of the kernel families: each combination is one shader. */
export type BinaryForm = {
  /** Output values per buffer element. */
  readonly width: Width;
  readonly rank: number;
  readonly x: OperandForm;
  readonly y: OperandForm;
  /** Invocations per workgroup. */
  readonly lanes: number;
};

/** WGSL that reads operands x and y of element i. */
function operands({ width, rank, x, y }: BinaryForm): Operands {
  const strided = (form: OperandForm): boolean => form === 'vector' || form === 'splat';
  const T = ELEMENT[width];
  const lines: string[] = [];
  if (strided(x) || strided(y)) {
    lines.push('  let inner = i % p.n;', '  var rest = i / p.n;');
    for (let d = rank - 2; d > 0; d--) lines.push(`  let i${d} = rest % p.size${d};`, `  rest = rest / p.size${d};`);
    lines.push('  let i0 = rest;');
  }
  const index = (form: OperandForm, name: string): string => {
    if (form === 'full') return 'i';
    if (form === 'scalar') return '0';
    const terms = range(rank - 1).map((d) => `i${d} * p.${name}${d}`);
    return [...terms, ...(form === 'vector' ? ['inner'] : [])].join(' + ');
  };
  lines.push(`  let x = ${T}(a[${index(x, 'x')}]);`, `  let y = ${T}(b[${index(y, 'y')}]);`);
  return { specs: { a: `read ${elementOf(x, width)}`, b: `read ${elementOf(y, width)}` }, text: lines.join('\n') };
}

const formName = ({ width, rank, x, y }: BinaryForm): string =>
  `f32_${ACCESS[width]}_${x}_${y}${rank > 1 ? `_rank${rank}` : ''}`;

/** output = f(x, y) */
export const binaryKernel = kernelFamily((f: BinaryFunction, form: BinaryForm) => {
  const { specs, text } = operands(form);
  return defineKernel({
    name: `${f}_${formName(form)}`,
    workgroup: [form.lanes],
    params: PARAMS,
    buffers: { ...specs, output: `write ${ELEMENT[form.width]}` },
    body: eachElement(
      form.lanes,
      'p.count',
      `
${text}
  output[i] = ${BINARY_FUNCTIONS[f].value};`,
    ),
  });
});

type Operand = 'x' | 'y';

/** Gradient with respect to one operand, of the output's shape. */
export const binaryGradientKernel = kernelFamily((f: BinaryFunction, operand: Operand, form: BinaryForm) => {
  const { specs, text } = operands(form);
  const T = ELEMENT[form.width];
  return defineKernel({
    name: `${f}_gradient_${operand}_${formName(form)}`,
    workgroup: [form.lanes],
    params: PARAMS,
    buffers: { ...specs, upstream: `read ${T}`, gradient: `write ${T}` },
    module: `alias T = ${T};`,
    body: eachElement(
      form.lanes,
      'p.count',
      `
${text}
  let u = upstream[i];
  gradient[i] = ${BINARY_FUNCTIONS[f][operand === 'x' ? 'xGradient' : 'yGradient']};`,
    ),
  });
});
