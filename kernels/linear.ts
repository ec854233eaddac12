/**
 * Operands that are either buffers of vec4s or linear operand textures, with vec4 e of a tensor at texel (e mod 2^shift, e >> shift): software adapters load faster from
 * textures. A kernel of either form has the texture's shift among its params, as `<name>Shift`.
 */
import type { BufferSpec } from './kernel.ts';

/** WGSL of a load of vec4 `e` of a linear operand texture. */
export const linearTextureLoad = (texture: string, shift: string, e: string): string =>
  `textureLoad(${texture}, vec2u(${e} & ((1u << ${shift}) - 1u), ${e} >> ${shift}))`;

/** WGSL of vec4 `e`, a name or a term in brackets, of an operand of either form. */
export const linearLoad = (textures: boolean, name: string, e: string): string =>
  textures ? linearTextureLoad(name, `p.${name}Shift`, e) : `${name}[${e}]`;

/** Bindings of operands of either form. */
export function linearBuffers<N extends string>(
  textures: boolean,
  ...names: readonly N[]
): Readonly<Record<N, BufferSpec>> {
  return Object.fromEntries(names.map((name) => [name, textures ? 'texture' : 'read vec4f'])) as Record<N, BufferSpec>;
}

/** Params of operands of either form. */
export const linearParams = (textures: boolean, ...names: readonly string[]): Readonly<Record<string, 'u32'>> =>
  Object.fromEntries(textures ? names.map((name) => [`${name}Shift`, 'u32']) : []);
