/**
 * Operand textures: a pool of rgba32float storage textures that hold copies of matrices.
 * Software adapters load from textures several times faster than from storage buffers. A buffer load costs a branch and
 * a bounds check per lane. A texture load is clamped without a branch.
 *
 * A matrix lies in blocks of `blockLines` lines, side by side. So a matrix may have more lines than a texture has rows.
 * Vec4 x of line l is at texel (pitch * floor(l / blockLines) + x, l mod blockLines).
 */
import type { MemoryLedger } from './memory-ledger.ts';
import type { Dispatcher } from './dispatcher.ts';
import {
  TEXEL_BYTES,
  type BufferRange,
  type CopiedMatrix,
  type OperandTexture,
  type TextureLayout,
  type TextureLines,
} from './resources.ts';

/** The memory of a matrix (`Storage` of core/storage.ts). */
export interface MatrixMemory {
  readonly range: BufferRange;
  /** Whether this is a parameter's memory, which is read in every pass and rarely written. */
  readonly persistent: boolean;
}

/** A matrix to be copied into a texture (`Tensor` of core/tensor.ts). */
export interface Matrix {
  readonly storage: MatrixMemory;
  /** Set if the matrix is computed from other memory on the first use of `storage`; `form` names the computation. */
  readonly derivation: { readonly from: MatrixMemory; readonly form: string } | null;
}

/** A matrix and how it lies in a texture. */
export interface MatrixOperand extends TextureLines {
  readonly matrix: Matrix;
}

export interface TexturePoolRules {
  /** Maximum bytes of textures that are kept for parameters. */
  readonly maxKeptBytes: number;
  /** Called before textures are destroyed. It submits pending work and drops cached bind groups. */
  readonly onDestroy: () => void;
  /** Whether textures can be destroyed now. */
  readonly mayDestroy: () => boolean;
}

/** WebGPU requires that rows of copyBufferToTexture are multiples of this many texels (256 bytes). */
const COPY_TEXELS = 16;
/**
 * If free textures take more bytes than this, they are destroyed before another texture is made.
 * A step of paper-r50 needs about 300 MB of textures. Creating them in every step would make the step a quarter slower.
 */
const MAX_FREE_BYTES = 512 * 2 ** 20;

/** A free texture is kept for a matrix only if its bytes are at most this many times those of a new texture. */
const MAX_KEPT_RATIO = 1.25;

/**
 * The layout of `lines` lines of `texels` texels in textures with sides of at most `maxSide`. Null if the matrix does
 * not fit, or cannot be copied.
 */
export function textureLayout(lines: number, texels: number, maxSide: number): TextureLayout | null {
  if (texels % COPY_TEXELS !== 0 || texels === 0 || lines === 0) return null;
  const blockLines = lines <= maxSide ? lines : 2 ** Math.floor(Math.log2(maxSide));
  const blocks = Math.ceil(lines / blockLines);
  return blocks * texels <= maxSide - ROW_PADDING ? { blocks, blockLines, pitch: texels } : null;
}

/** Extra texels per row, so that rows are not a power of two apart. Such rows would fall into the same cache sets. */
const ROW_PADDING = 4;

/** The memory that a matrix's values come from: that of the matrix itself, or of the tensor it is derived from. */
const sourceOf = (matrix: Matrix): MatrixMemory => matrix.derivation?.from ?? matrix.storage;

/** Describes the copy of an operand. */
const copyOf = ({ matrix, lines, texels, rest, layout }: MatrixOperand): CopiedMatrix => {
  const { id, offset } = sourceOf(matrix).range;
  return {
    buffer: id,
    offset,
    form: matrix.derivation?.form ?? '',
    lines,
    texels,
    rest,
    blockLines: layout.blockLines,
  };
};

const same = (a: CopiedMatrix, b: CopiedMatrix | null): boolean =>
  b !== null &&
  a.buffer === b.buffer &&
  a.offset === b.offset &&
  a.form === b.form &&
  a.lines === b.lines &&
  a.texels === b.texels &&
  a.rest === b.rest &&
  a.blockLines === b.blockLines;

/**
 * Textures to copy operands into. A texture goes back to the pool right after the dispatches that use it are encoded,
 * since the device works in order. A matrix that is still in a free texture is not copied again if its buffer was not
 * written since. So the gradients with respect to input and weight share the copy of the upstream gradient.
 * In inference, parameters (`MatrixMemory.persistent`) keep their textures from pass to pass, up to `maxKeptBytes`.
 */
export class TexturePool {
  private free: OperandTexture[] = [];
  /** Textures by the buffer that their matrix was copied from (its id). */
  private readonly copies = new Map<number, Set<OperandTexture>>();
  private nextId = 1;
  private keptBytes = 0;
  /** Whether copies of parameters stay in their textures now. */
  keepsParameters = false;

  /**
   * @param ledger counts the bytes of the textures
   */
  constructor(
    private readonly device: GPUDevice,
    private readonly ledger: MemoryLedger,
    private readonly rules: TexturePoolRules,
  ) {}

  /** Runs `body`. Copies of parameters made in it stay in their textures. */
  keeping<T>(body: () => T): T {
    const before = this.keepsParameters;
    this.keepsParameters = true;
    try {
      return body();
    } finally {
      this.keepsParameters = before;
    }
  }

  /** Runs `body` with matrices copied into textures. Only the commands of `body` may use these textures. */
  with<T>(
    operands: readonly MatrixOperand[],
    dispatcher: Dispatcher,
    body: (textures: readonly OperandTexture[]) => T,
  ): T {
    const copies = operands.map(copyOf);
    const textures = copies.map((copy) => this.takeCopy(copy));
    const borrowed = textures.filter((texture) => texture !== null && !texture.kept) as OperandTexture[];
    try {
      operands.forEach(({ matrix, lines, texels, rest, layout }, i) => {
        if (textures[i]) return;
        const size = [layout.blocks * layout.pitch, layout.blockLines] as const;
        const kept = this.keepsParameters && sourceOf(matrix).persistent ? this.acquireKept(...size) : null;
        const texture = kept ?? this.acquire(...size);
        textures[i] = texture;
        if (!kept) borrowed.push(texture);
        dispatcher.copyToTexture(matrix.storage.range, { lines, texels, rest, layout }, texture);
        this.setContent(texture, copies[i]);
      });
      return body(textures as OperandTexture[]);
    } finally {
      for (const texture of borrowed) this.release(texture);
    }
  }

  /** Call it for every buffer that a command writes, and for every buffer that is freed. */
  written(buffer: number): void {
    const textures = this.copies.get(buffer);
    if (!textures) return;
    for (const texture of textures) {
      texture.copied = null;
      if (texture.kept) this.giveUp(texture);
    }
    this.copies.delete(buffer);
  }

  /** Forgets the content of all textures. Needed if the next commands go to another list or come from a list. */
  forget(): void {
    for (const buffer of [...this.copies.keys()]) this.written(buffer);
  }

  /** Sets which matrix a texture holds. */
  private setContent(texture: OperandTexture, copy: CopiedMatrix | null): void {
    const { copied } = texture;
    if (copied) {
      const textures = this.copies.get(copied.buffer);
      textures?.delete(texture);
      if (textures?.size === 0) this.copies.delete(copied.buffer);
    }
    texture.copied = copy;
    if (!copy) return;
    const textures = this.copies.get(copy.buffer) ?? new Set();
    textures.add(texture);
    this.copies.set(copy.buffer, textures);
  }

  /** Takes a free or kept texture that holds the matrix already; null if there is none. */
  private takeCopy(copy: CopiedMatrix): OperandTexture | null {
    for (const texture of this.copies.get(copy.buffer) ?? []) {
      if (!same(copy, texture.copied)) continue;
      if (texture.kept) return texture;
      const at = this.free.indexOf(texture);
      if (at < 0) continue; // in use by the same call
      this.free.splice(at, 1);
      this.ledger.reuse(texture.bytes);
      return texture;
    }
    return null;
  }

  /** A texture of about this size (in texels) to keep for one matrix; null if `maxKeptBytes` is used up. */
  private acquireKept(width: number, height: number): OperandTexture | null {
    const bytes = this.sizeFor(width, height).bytes;
    const found = this.smallestFree(width, height);
    const texture = found && found.bytes <= MAX_KEPT_RATIO * bytes && found.captures === 0 ? found : null;
    if (this.keptBytes + (texture?.bytes ?? bytes) > this.rules.maxKeptBytes) return null;
    const kept = texture ? this.take(texture) : this.create(width, height);
    kept.kept = true;
    this.keptBytes += kept.bytes;
    return kept;
  }

  /** Makes a kept texture free for other matrices. */
  private giveUp(texture: OperandTexture): void {
    texture.kept = false;
    this.keptBytes -= texture.bytes;
    this.release(texture);
  }

  /** A texture of at least this size, in texels. */
  private acquire(width: number, height: number): OperandTexture {
    const texture = this.smallestFree(width, height);
    if (texture) return this.take(texture);
    if (this.idle().reduce((sum, { bytes }) => sum + bytes, 0) > MAX_FREE_BYTES && this.rules.mayDestroy()) this.trim();
    return this.create(width, height);
  }

  /**
   * The smallest free texture of at least this size. Among textures of equal size it is the first without content. If
   * all have content, it is the one that has been free for longest.
   */
  private smallestFree(width: number, height: number): OperandTexture | null {
    const fitting = this.free.filter((texture) => texture.width >= width && texture.height >= height);
    return fitting.length === 0
      ? null
      : fitting.reduce((best, other) =>
          other.bytes < best.bytes || (other.bytes === best.bytes && best.copied && !other.copied) ? other : best,
        );
  }

  private take(texture: OperandTexture): OperandTexture {
    this.setContent(texture, null);
    this.free.splice(this.free.indexOf(texture), 1);
    this.ledger.reuse(texture.bytes);
    return texture;
  }

  private release(texture: OperandTexture): void {
    this.free.push(texture);
    this.ledger.release(texture.bytes);
  }

  /** Destroys the free textures that no capture uses. */
  private trim(): void {
    this.rules.onDestroy();
    for (const texture of this.idle()) {
      this.setContent(texture, null);
      texture.gpu.destroy();
      this.ledger.drop(texture.bytes);
    }
    this.free = this.free.filter(({ captures }) => captures > 0);
  }

  /** Free textures that no capture uses. */
  private idle(): OperandTexture[] {
    return this.free.filter(({ captures }) => captures === 0);
  }

  /** Sides (in texels) and bytes of the texture to create for at least this size. */
  private sizeFor(
    width: number,
    height: number,
  ): { readonly size: [width: number, height: number]; readonly bytes: number } {
    const maxSide = this.device.limits.maxTextureDimension2D;
    const size: [number, number] = [
      Math.min(maxSide, Math.ceil(width / 64) * 64 + ROW_PADDING),
      Math.min(maxSide, Math.ceil(height / 64) * 64),
    ];
    return { size, bytes: size[0] * size[1] * TEXEL_BYTES };
  }

  private create(atLeastWidth: number, atLeastHeight: number): OperandTexture {
    const { size, bytes } = this.sizeFor(atLeastWidth, atLeastHeight);
    const [width, height] = size;
    const gpu = this.device.createTexture({
      label: 'operand',
      size,
      format: 'rgba32float',
      usage: GPUTextureUsage.COPY_DST | GPUTextureUsage.STORAGE_BINDING,
    });
    this.ledger.add(bytes);
    return {
      id: this.nextId++,
      gpu,
      view: gpu.createView(),
      width,
      height,
      bytes,
      matrixBytes: 0,
      captures: 0,
      copied: null,
      kept: false,
    };
  }
}
