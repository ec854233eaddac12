/**
 * The epilogue of matrix products and convolutions: act(sum * scale + bias + residual), computed before the store.
 * Every part is optional. Scale and bias have one value per column (output channel). The residual has the output's
 * shape. So a convolution, its frozen batch norm, the residual and the ReLU are one kernel.
 */
import type { BufferSpec } from './kernel.ts';

/** The parts that are present, as the end of a kernel's name. '' is the plain sum. */
export type Epilogue = `${'' | '_scale'}${'' | '_bias'}${'' | '_residual'}${'' | '_relu'}`;
export type EpilogueOperand = 'scale' | 'bias' | 'residual';
/** Operands with one value per column. */
export type ColumnOperand = Exclude<EpilogueOperand, 'residual'>;

/** The epilogue with these parts. */
export function epilogueOf(parts: Readonly<Record<EpilogueOperand | 'relu', boolean>>): Epilogue {
  return `${parts.scale ? '_scale' : ''}${parts.bias ? '_bias' : ''}${parts.residual ? '_residual' : ''}${
    parts.relu ? '_relu' : ''
  }`;
}

/** Whether an epilogue reads an operand. */
export const reads = (epilogue: Epilogue, operand: EpilogueOperand): boolean => epilogue.includes(`_${operand}`);

/** The buffers that an epilogue reads, under its operands' names. */
export function epilogueBuffers(epilogue: Epilogue, element: 'vec4f' | 'f32'): Readonly<Record<string, BufferSpec>> {
  const operands: readonly EpilogueOperand[] = ['scale', 'bias', 'residual'];
  return Object.fromEntries(
    operands.filter((operand) => reads(epilogue, operand)).map((operand) => [operand, `read ${element}`]),
  );
}

/** WGSL that loads the column operands into `scale<suffix>` and `bias<suffix>`; `load` gives the load expression. */
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

/** WGSL expressions of the terms of the value to store. */
export interface EpilogueTerms {
  readonly sum: string;
  /** Suffix of the column operands, as given to `columnOperands`; default ''. */
  readonly suffix?: string | number;
  readonly residual: string;
  /** Zero of the type; default `vec4f()`. */
  readonly zero?: string;
}

/** WGSL of the value to store. */
export function withEpilogue(
  epilogue: Epilogue,
  { sum, suffix = '', residual, zero = 'vec4f()' }: EpilogueTerms,
): string {
  const terms = [
    `${sum}${reads(epilogue, 'scale') ? ` * scale${suffix}` : ''}`,
    ...(reads(epilogue, 'bias') ? [`bias${suffix}`] : []),
    ...(reads(epilogue, 'residual') ? [residual] : []),
  ];
  const value = terms.join(' + ');
  return epilogue.endsWith('_relu') ? `max(${value}, ${zero})` : value;
}
