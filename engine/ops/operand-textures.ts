/** Operands that ops read from textures, and their layout in textures (gpu/textures.ts holds the textures). */
import { sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice, TextureOperand } from '../core/tensor.ts';
import type { OperandTexture, TextureLayout } from '../gpu/resources.ts';
import { textureLayout } from '../gpu/textures.ts';

/** See `linearOperand`. */
export interface LinearOperand extends TextureOperand {
  readonly shift: number;
}

/**
 * Whether kernels should read operands from textures where copies pay. lavapipe (8 or 16 lanes) loads faster from
 * textures than from buffers. SwiftShader (4 lanes) does not.
 */
export function prefersTextures({ operandTextures, subgroupSize, force: { operands } }: TensorDevice): boolean {
  return (
    operandTextures && operands !== 'buffer' && (operands === 'texture' || (subgroupSize >= 8 && subgroupSize <= 16))
  );
}

/**
 * A matrix of `lines` lines of `texels` vec4s as a texture operand, or null where no texture can hold it.
 * `whole`: in one block.
 */
export function textureOperand(matrix: Tensor, lines: number, texels: number, whole = false): TextureOperand | null {
  const layout = layoutOf(matrix.device, lines, texels, whole);
  return layout && { matrix, lines, texels, rest: 0, layout };
}

/** Whether a matrix with these lines and texels can be a texture operand. */
export const textureFits = (device: TensorDevice, lines: number, texels: number, whole = false): boolean =>
  layoutOf(device, lines, texels, whole) !== null;

function layoutOf({ limits }: TensorDevice, lines: number, texels: number, whole: boolean): TextureLayout | null {
  const layout = textureLayout(lines, texels, limits.maxTextureDimension2D);
  return layout && !(whole && layout.blocks > 1) ? layout : null;
}

/**
 * log2 of the texels of a line of a linear operand. A line is at least as long as a copy needs, and about as long as
 * the number of lines.
 */
const MIN_SHIFT = 4,
  DEFAULT_SHIFT = 10,
  MAX_SHIFT = 12;

/** The layout of a linear operand with `texels` texels; null where no texture can hold it. */
function linearLines(
  { limits: { maxTextureDimension2D } }: TensorDevice,
  texels: number,
): Omit<LinearOperand, 'matrix'> | null {
  if (!Number.isInteger(texels) || texels === 0) return null;
  let shift = Math.min(DEFAULT_SHIFT, Math.max(MIN_SHIFT, Math.ceil(Math.log2(texels) / 2)));
  while (shift < MAX_SHIFT && texels > maxTextureDimension2D * 2 ** shift) shift++;
  const lines = Math.floor(texels / 2 ** shift),
    rest = texels % 2 ** shift,
    blockLines = lines + (rest > 0 ? 1 : 0);
  return blockLines > maxTextureDimension2D
    ? null
    : { lines, texels: 2 ** shift, rest, layout: { blocks: 1, blockLines, pitch: 2 ** shift }, shift };
}

/**
 * The vec4s of a tensor as a linear operand, for any length of its rows: vec4 e is at texel (e mod 2^shift, e >>
 * shift). Null where the tensor is not made of whole vec4s, or where no texture can hold them.
 */
export function linearOperand(tensor: Tensor): LinearOperand | null {
  const lines = linearLines(tensor.device, tensor.size / 4);
  return lines && { matrix: tensor, ...lines };
}

/** Whether a tensor of a shape can be a linear operand. */
export const hasLinearOperand = (device: TensorDevice, shape: Shape): boolean =>
  linearLines(device, sizeOf(shape) / 4) !== null;

/** A tensor's copy in a linear texture. */
export interface LinearCopy {
  readonly texture: OperandTexture;
  readonly shift: number;
}

/** Runs `body` with copies of tensors in linear textures, or with null where one of them does not fit. */
export function withLinearCopies<T>(
  device: TensorDevice,
  tensors: readonly Tensor[],
  body: (copies: readonly LinearCopy[] | null) => T,
): T {
  const operands = tensors.map(linearOperand).filter((operand) => operand !== null);
  if (operands.length < tensors.length) return body(null);
  return device.withTextures(operands, (textures) =>
    body(operands.map(({ shift }, i) => ({ texture: textures[i], shift }))),
  );
}

/**
 * Runs `body` with operands copied into linear textures, and with the params that locate their elements
 * (kernels/linear.ts). Without `textures`, or where one does not fit, `body` gets the tensors themselves.
 */
export function withOperands<N extends string>(
  device: TensorDevice,
  textures: boolean,
  tensors: Readonly<Record<N, Tensor>>,
  body: (
    textures: boolean,
    operands: Readonly<Record<N, Tensor | OperandTexture>>,
    shifts: Readonly<Record<string, number>>,
  ) => void,
): void {
  const names = Object.keys(tensors) as N[];
  if (!textures) {
    body(false, tensors, {});
    return;
  }
  withLinearCopies(
    device,
    names.map((name) => tensors[name]),
    (copies) => {
      if (!copies) return body(false, tensors, {});
      const copied = Object.fromEntries(names.map((name, i) => [name, copies[i].texture])) as Record<N, OperandTexture>;
      body(true, copied, Object.fromEntries(names.map((name, i) => [`${name}Shift`, copies[i].shift])));
    },
  );
}
