/**
 * Operands that are either buffers of vec4s or linear operand textures. In a linear texture, vec4 e of a tensor is at
 * texel (e mod 2^shift, e >> shift). Software adapters load faster from textures. A kernel that reads textures has the
 * shift of each among its params, as `<name>Shift`.
 */
import type { BufferSpec } from './kernel.ts';

/** WGSL that loads vec4 `e` of a linear operand texture. */
export const linearTextureLoad = (texture: string, shift: string, e: string): string =>
  `textureLoad(${texture}, vec2u(${e} & ((1u << ${shift}) - 1u), ${e} >> ${shift}))`;

/** WGSL that loads vec4 `e` of an operand from its texture or buffer. `e` is a name or an expression in brackets. */
export const linearLoad = (textures: boolean, name: string, e: string): string =>
  textures ? linearTextureLoad(name, `p.${name}Shift`, e) : `${name}[${e}]`;

/** Bindings of the operands, as textures or as buffers. */
export function linearBuffers<N extends string>(
  textures: boolean,
  ...names: readonly N[]
): Readonly<Record<N, BufferSpec>> {
  return Object.fromEntries(names.map((name) => [name, textures ? 'texture' : 'read vec4f'])) as Record<N, BufferSpec>;
}

/** Params of the operands: their shifts if they are textures. */
export const linearParams = (textures: boolean, ...names: readonly string[]): Readonly<Record<string, 'u32'>> =>
  Object.fromEntries(textures ? names.map((name) => [`${name}Shift`, 'u32']) : []);
