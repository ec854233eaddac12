/** Elementwise functions of two tensors under broadcasting, and their derivatives. */
import { defineKernel, eachElement, kernelFamily, type BufferSpec, type ScalarType } from './kernel.ts';

/**
 * WGSL of f(x, y), and of the gradients by x and y given `u`, over `T` (vec4f or f32).
 * Ties of maximum and minimum give each side half, as in PyTorch.
 */
const BINARY_FUNCTIONS = {
  add: { value: 'x + y', byX: 'u', byY: 'u' },
  sub: { value: 'x - y', byX: 'u', byY: '-u' },
  mul: { value: 'x * y', byX: 'u * y', byY: 'u * x' },
  div: { value: 'x / y', byX: 'u / y', byY: '-u * x / (y * y)' },
  maximum: {
    value: 'max(x, y)',
    byX: 'select(select(T(), 0.5 * u, x == y), u, x > y)',
    byY: 'select(select(T(), 0.5 * u, x == y), u, y > x)',
  },
  minimum: {
    value: 'min(x, y)',
    byX: 'select(select(T(), 0.5 * u, x == y), u, x < y)',
    byY: 'select(select(T(), 0.5 * u, x == y), u, y < x)',
  },
} as const;

export type BinaryFunction = keyof typeof BINARY_FUNCTIONS;

/**
 * How an operand is read at output element i (of `rank` dimensions, the innermost of `n` elements):
 * full: as the output; scalar: one value for all; vector: along the innermost dimension, by strides over the others;
 * splat: by strides over the others only.
 */
export type OperandForm = 'full' | 'scalar' | 'vector' | 'splat';

/** The most dimensions that remain after adjacent ones of equal kind are merged. */
export const MAX_RANK = 5;

/**
 * Sizes of the output's dimensions between the first and the innermost, and each operand's strides but for the innermost dimension,
 * in its own elements.
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

const elementOf = (form: OperandForm, width: 1 | 4): 'f32' | 'vec4f' =>
  width === 4 && (form === 'full' || form === 'vector') ? 'vec4f' : 'f32';

interface Operands {
  readonly specs: { readonly a: BufferSpec; readonly b: BufferSpec };
  readonly text: string;
}

/** Reads operands x and y of element i. */
function operands(width: 1 | 4, rank: number, x: OperandForm, y: OperandForm): Operands {
  const strided = (form: OperandForm): boolean => form === 'vector' || form === 'splat';
  const T = width === 4 ? 'vec4f' : 'f32';
  const lines: string[] = [];
  if (strided(x) || strided(y)) {
    lines.push('  let inner = i % p.n;', '  var rest = i / p.n;');
    for (let d = rank - 2; d > 0; d--) lines.push(`  let i${d} = rest % p.size${d};`, `  rest = rest / p.size${d};`);
    lines.push('  let i0 = rest;');
  }
  const index = (form: OperandForm, name: string): string => {
    if (form === 'full') return 'i';
    if (form === 'scalar') return '0';
    const terms = Array.from({ length: rank - 1 }, (_, d) => `i${d} * p.${name}${d}`);
    return [...terms, ...(form === 'vector' ? ['inner'] : [])].join(' + ');
  };
  lines.push(`  let x = ${T}(a[${index(x, 'x')}]);`, `  let y = ${T}(b[${index(y, 'y')}]);`);
  return { specs: { a: `read ${elementOf(x, width)}`, b: `read ${elementOf(y, width)}` }, text: lines.join('\n') };
}

const formName = (width: 1 | 4, rank: number, x: OperandForm, y: OperandForm): string =>
  `f32_${width === 4 ? 'vec4' : 'scalar'}_${x}_${y}${rank > 1 ? `_rank${rank}` : ''}`;

export const binaryKernel = kernelFamily(
  (f: BinaryFunction, width: 1 | 4, rank: number, x: OperandForm, y: OperandForm, lanes: number) => {
    const { specs, text } = operands(width, rank, x, y);
    return defineKernel({
      name: `${f}_${formName(width, rank, x, y)}`,
      workgroup: [lanes],
      params: PARAMS,
      buffers: { ...specs, output: width === 4 ? 'write vec4f' : 'write f32' },
      body: eachElement(
        lanes,
        'p.count',
        `
${text}
  output[i] = ${BINARY_FUNCTIONS[f].value};`,
      ),
    });
  },
);

type Operand = 'x' | 'y';

/** Gradient by one operand, of the output's shape. */
export const binaryGradientKernel = kernelFamily(
  (f: BinaryFunction, by: Operand, width: 1 | 4, rank: number, x: OperandForm, y: OperandForm, lanes: number) => {
    const { specs, text } = operands(width, rank, x, y);
    const T = width === 4 ? 'vec4f' : 'f32';
    return defineKernel({
      name: `${f}_gradient_${by}_${formName(width, rank, x, y)}`,
      workgroup: [lanes],
      params: PARAMS,
      buffers: { ...specs, upstream: `read ${T}`, gradient: `write ${T}` },
      module: `alias T = ${T};`,
      body: eachElement(
        lanes,
        'p.count',
        `
${text}
  let u = upstream[i];
  gradient[i] = ${BINARY_FUNCTIONS[f][by === 'x' ? 'byX' : 'byY']};`,
      ),
    });
  },
);
