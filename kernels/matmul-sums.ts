/** Sums around matrix products: of the slices of a split K, and of a matrix's columns. */
import { columnOperands, epilogueBuffers, withEpilogue, type Epilogue } from './epilogue.ts';
import { defineKernel, eachElement, kernelFamily, type BufferSpec, type Kernel } from './kernel.ts';
import type { OperandAccess } from './matmul.ts';

/**
 * Adds up the slices of a split sum, in order, and applies the epilogue:
 * `output[i] = sum over s of partial[s * count + i]`.
 */
export const sumSlicesKernel = kernelFamily((access: OperandAccess, epilogue: Epilogue, lanes: number): Kernel => {
  const element = access === 'vec4' ? 'vec4f' : 'f32';
  const buffers: Record<string, BufferSpec> = {
    partial: `read ${element}`,
    ...epilogueBuffers(epilogue, element),
    output: `write ${element}`,
  };
  return defineKernel({
    name: `matmul_sum_slices_f32_${access}${epilogue}`,
    workgroup: [lanes],
    /** Count and width in elements of the buffers: vec4s or scalars. */
    params: { count: 'u32', width: 'u32', slices: 'u32' },
    buffers,
    body: eachElement(
      lanes,
      'p.count',
      `
    var sum = ${element}();
    for (var s = 0u; s < p.slices; s++) { sum += partial[s * p.count + i]; }
    ${columnOperands(epilogue, '', (buffer) => `${buffer}[i % p.width]`)}
    output[i] = ${withEpilogue(epilogue, { sum: 'sum', residual: 'residual[i]', zero: `${element}()` })};`,
    ),
  });
});

/**
 * Sums of the columns of a matrix over blocks of rows: `partial[block, column]`.
 *
 * With `masked` the matrix is first set to 0 where `activated`, the output of a ReLU, is not positive. `gradient`
 * receives the masked matrix. So one pass gives the gradient before the ReLU and the gradient of the bias.
 */
export const columnSumsKernel = kernelFamily((access: OperandAccess, masked: boolean): Kernel => {
  const element = access === 'vec4' ? 'vec4f' : 'f32';
  const buffers: Record<string, BufferSpec> = {
    upstream: `read ${element}`,
    ...(masked ? { activated: `read ${element}` as const, gradient: `write ${element}` as const } : {}),
    partial: `write ${element}`,
  };
  const value = masked
    ? `let value = select(${element}(), upstream[i], activated[i] > ${element}());\n    gradient[i] = value;`
    : 'let value = upstream[i];';
  return defineKernel({
    name: `column_sums_f32_${access}${masked ? '_relu' : ''}`,
    workgroup: [32],
    params: { rows: 'u32', width: 'u32', blockRows: 'u32', columnGroups: 'u32' },
    buffers,
    body: `
  let column = (linearGroup % p.columnGroups) * 32u + lane;
  let block = linearGroup / p.columnGroups;
  let first = block * p.blockRows;
  if (column >= p.width || first >= p.rows) { return; }
  var sum = ${element}();
  for (var row = first; row < min(p.rows, first + p.blockRows); row++) {
    let i = row * p.width + column;
    ${value}
    sum += value;
  }
  partial[block * p.width + column] = sum;`,
  });
});
