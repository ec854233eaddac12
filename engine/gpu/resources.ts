/** GPU resources that commands name: ranges of buffers, and operand textures with the layout of the matrix in them. */

/** A range of a buffer as a dispatch binds it. `id` names the buffer in cache keys. Offset and size are in bytes. */
export interface BufferRange {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** An object with a buffer to bind; tensors fit this type. */
export interface BufferHolder {
  readonly storage: { readonly range: BufferRange };
}

/** Bytes of a texel: one vec4 of f32. */
export const TEXEL_BYTES = 16;

/** How the lines of a matrix lie in a texture. */
export interface TextureLayout {
  readonly blocks: number;
  /** A power of two if there is more than one block. */
  readonly blockLines: number;
  /** Texels from one block to the next. */
  readonly pitch: number;
}

/** A matrix of `lines` lines of `texels` vec4s, plus a last line of `rest` vec4s, and its layout in a texture. */
export interface TextureLines {
  readonly lines: number;
  readonly texels: number;
  readonly rest: number;
  readonly layout: TextureLayout;
}

/** Where the matrix in a texture was copied from, and how it lies there. */
export interface CopiedMatrix {
  /** The buffer's id. */
  readonly buffer: number;
  readonly offset: number;
  /** The computation that made the matrix from the buffer (`TensorDevice.derived`); empty for a plain copy. */
  readonly form: string;
  readonly lines: number;
  readonly texels: number;
  readonly rest: number;
  readonly blockLines: number;
}

/** A storage texture (rgba32float) that holds a copy of a matrix; made by the pool in textures.ts. */
export interface OperandTexture {
  readonly id: number;
  readonly gpu: GPUTexture;
  readonly view: GPUTextureView;
  /** In texels. */
  readonly width: number;
  readonly height: number;
  readonly bytes: number;
  /** Bytes of the matrix that was copied into the texture last. */
  matrixBytes: number;
  /**
   * Number of captures that use the texture. The texture lives as long as these captures. Other work may use the
   * texture too, because each replay copies its matrices again.
   */
  captures: number;
  /** The matrix in the texture; null once the matrix's buffer is written or freed. */
  copied: CopiedMatrix | null;
  /** Reserved for the matrix in `copied`: no other matrix is copied into the texture. */
  kept: boolean;
}

/** A resource that a caller passes for a binding of a kernel. */
export type Bindable = BufferHolder | OperandTexture;

/** A resource as a dispatch binds it. */
export type Bound = BufferRange | OperandTexture;
