/**
 * What matrix products and convolutions do with a sum before they store it: act(sum * scale + bias + residual), any part of which may be missing. Scale and bias
 * have one value a column (output channel), the residual has the output's shape. So a convolution, its frozen batch norm, the residual and the ReLU are one kernel.
 */
import type { BufferSpec } from './kernel.ts';

/** The parts there are, as the end of a kernel's name; '' is the plain sum. */
export type Epilogue = `${'' | '_scale'}${'' | '_bias'}${'' | '_residual'}${'' | '_relu'}`;
export type EpilogueOperand = 'scale' | 'bias' | 'residual';
/** Those with one value a column. */
export type ColumnOperand = Exclude<EpilogueOperand, 'residual'>;

export function epilogueOf(parts: Readonly<Record<EpilogueOperand | 'relu', boolean>>): Epilogue {
  return `${parts.scale ? '_scale' : ''}${parts.bias ? '_bias' : ''}${parts.residual ? '_residual' : ''}${parts.relu ? '_relu' : ''}`;
}

export const reads = (epilogue: Epilogue, operand: EpilogueOperand): boolean => epilogue.includes(`_${operand}`);

/** The buffers that an epilogue reads, under its operands' names. */
export function epilogueBuffers(epilogue: Epilogue, element: 'vec4f' | 'f32'): Readonly<Record<string, BufferSpec>> {
  const operands: readonly EpilogueOperand[] = ['scale', 'bias', 'residual'];
  return Object.fromEntries(
    operands.filter((operand) => reads(epilogue, operand)).map((operand) => [operand, `read ${element}`]),
  );
}

/** WGSL that loads the column operands of vec4s or elements of columns into `scale<suffix>` and `bias<suffix>`. */
export function columnOperands(
  epilogue: Epilogue,
  suffix: string | number,
  load: (buffer: ColumnOperand) => string,
): string {
  const operands: readonly ColumnOperand[] = ['scale', 'bias'];
  return operands
    .filter((operand) => reads(epilogue, operand))
    .map((operand) => `let ${operand}${suffix} = ${load(operand)};`)
    .join(' ');
}

/** WGSL of the value to store, from an expression for the sum, the suffix of its column operands, an expression for the residual, and the zero of the type. */
export function withEpilogue(
  epilogue: Epilogue,
  sum: string,
  suffix: string | number,
  residual: string,
  zero: string,
): string {
  const scaled = `${sum}${reads(epilogue, 'scale') ? ` * scale${suffix}` : ''}`;
  const value = `${scaled}${reads(epilogue, 'bias') ? ` + bias${suffix}` : ''}${reads(epilogue, 'residual') ? ` + ${residual}` : ''}`;
  return epilogue.endsWith('_relu') ? `max(${value}, ${zero})` : value;
}
