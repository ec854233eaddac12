/**
 * Operand textures: matrices copied into rgba32float storage textures, from which software adapters load several times faster than from storage
 * buffers (a buffer load there is a branch and a bounds check for every lane; a texture load is clamped without one).
 *
 * A matrix of `lines` lines lies in blocks of `blockLines` lines side by side, so that it may have more lines than a texture has rows:
 * line l, vec4 x at texel (pitch * floor(l / blockLines) + x, l mod blockLines).
 */
import type { MemoryLedger } from './buffers.ts';
import type { Dispatcher } from './dispatcher.ts';
import {
  TEXEL_BYTES,
  type BufferRange,
  type CopiedMatrix,
  type OperandTexture,
  type TextureLayout,
  type TextureLines,
} from './resources.ts';

/** The memory that holds a matrix (`Storage` of core/storage.ts). */
export interface MatrixMemory {
  readonly range: BufferRange;
  readonly lasting: boolean;
}

/** A matrix to be copied into a texture (`Tensor` of core/tensor.ts). */
export interface Matrix {
  readonly storage: MatrixMemory;
  readonly derivation: { readonly from: MatrixMemory; readonly form: string } | null;
}

/** A matrix and how it lies in a texture. */
export interface MatrixOperand extends TextureLines {
  readonly matrix: Matrix;
}

/** copyBufferToTexture wants rows of a multiple of 256 bytes. */
const TEXELS_OF_A_COPY = 16;
/** Free textures beyond this are destroyed when another is made. A step of paper-r50 needs some 300 MB of them; making them anew in every step would take it a quarter longer. */
const MAX_FREE_BYTES = 512 * 2 ** 20;

/** A larger texture than so many times what a matrix needs is not kept for it. */
const MAX_KEPT = 1.25;

/** Layout of `lines` lines of `texels` texels in textures of at most `maxSide` on a side; null where there is none, or no copy can make it. */
export function textureLayout(lines: number, texels: number, maxSide: number): TextureLayout | null {
  if (texels % TEXELS_OF_A_COPY !== 0 || texels === 0 || lines === 0) return null;
  const blockLines = lines <= maxSide ? lines : 2 ** Math.floor(Math.log2(maxSide));
  const blocks = Math.ceil(lines / blockLines);
  return blocks * texels <= maxSide - ROW_PADDING ? { blocks, blockLines, pitch: texels } : null;
}

/** Texels that no texture's row is a multiple of 64 long by: rows a power of two apart would fall into the same cache sets. */
const ROW_PADDING = 4;

const sourceOf = (matrix: Matrix): MatrixMemory => matrix.derivation?.from ?? matrix.storage;

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
 * Textures to copy operands into. One is used by the dispatch after the copy and then goes back at once: the device works in order. A matrix that is still in a free
 * texture, and whose buffer nothing has written since, is not copied again: an upstream gradient serves the gradients by input and weight. Those of parameters
 * (`Storage.lasting`) have textures to themselves in inference, which serve pass after pass, as far as `mostKept` bytes go.
 */
export class TexturePool {
  private free: OperandTexture[] = [];
  /** Textures whose `copied` names a buffer, by its id. */
  private readonly copies = new Map<number, Set<OperandTexture>>();
  private nextId = 1;
  private keptBytes = 0;
  /** Whether parameters' copies stay in their textures at the moment. */
  keeps = false;

  /**
   * @param mostKept   bytes of textures that parameters may have to themselves
   * @param onDestroy  called before textures are destroyed: pending work must be submitted and cached bind groups dropped
   * @param mayDestroy whether that is possible now
   */
  constructor(
    private readonly device: GPUDevice,
    private readonly ledger: MemoryLedger,
    private readonly mostKept: number,
    private readonly onDestroy: () => void,
    private readonly mayDestroy: () => boolean,
  ) {}

  /** Runs `body`, in which parameters' copies stay in their textures. */
  keeping<T>(body: () => T): T {
    const before = this.keeps;
    this.keeps = true;
    try {
      return body();
    } finally {
      this.keeps = before;
    }
  }

  /** Runs `body` with matrices in textures. What `body` records is all that sees them. */
  with<T>(
    operands: readonly MatrixOperand[],
    dispatcher: Dispatcher,
    body: (textures: readonly OperandTexture[]) => T,
  ): T {
    const wanted = operands.map(copyOf);
    const textures = wanted.map((copy) => this.holding(copy));
    const borrowed = textures.filter((texture) => texture !== null && !texture.kept) as OperandTexture[];
    try {
      operands.forEach(({ matrix, lines, texels, rest, layout }, i) => {
        if (textures[i]) return;
        const size = [layout.blocks * layout.pitch, layout.blockLines] as const;
        const kept = this.keeps && sourceOf(matrix).lasting ? this.acquireKept(...size) : null;
        const texture = kept ?? this.acquire(...size);
        textures[i] = texture;
        if (!kept) borrowed.push(texture);
        dispatcher.copyToTexture(matrix.storage.range, { lines, texels, rest, layout }, texture);
        this.note(texture, wanted[i]);
      });
      return body(textures as OperandTexture[]);
    } finally {
      for (const texture of borrowed) this.release(texture);
    }
  }

  /** To be told of every buffer that recorded work writes to, or that is freed. */
  written(buffer: number): void {
    const textures = this.copies.get(buffer);
    if (!textures) return;
    for (const texture of textures) {
      texture.copied = null;
      if (texture.kept) this.giveUp(texture);
    }
    this.copies.delete(buffer);
  }

  /** Nothing that textures hold is relied on any more: work is recorded to, or encoded from, another list. */
  forget(): void {
    for (const buffer of [...this.copies.keys()]) this.written(buffer);
  }

  private note(texture: OperandTexture, copy: CopiedMatrix | null): void {
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

  /** A free or kept texture that has the matrix. */
  private holding(copy: CopiedMatrix): OperandTexture | null {
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

  /** A texture of about that size, in texels, that is kept for one matrix; null where no more may be. */
  private acquireKept(width: number, height: number): OperandTexture | null {
    const bytes = this.sizeFor(width, height).bytes;
    const found = this.smallestFree(width, height);
    const texture = found && found.bytes <= MAX_KEPT * bytes && found.captures === 0 ? found : null;
    if (this.keptBytes + (texture?.bytes ?? bytes) > this.mostKept) return null;
    const kept = texture ? this.take(texture) : this.create(width, height);
    kept.kept = true;
    this.keptBytes += kept.bytes;
    return kept;
  }

  /** What was kept serves everybody again. */
  private giveUp(texture: OperandTexture): void {
    texture.kept = false;
    this.keptBytes -= texture.bytes;
    this.release(texture);
  }

  /** A texture at least that large, in texels. */
  private acquire(width: number, height: number): OperandTexture {
    const texture = this.smallestFree(width, height);
    if (texture) return this.take(texture);
    if (this.idle().reduce((sum, { bytes }) => sum + bytes, 0) > MAX_FREE_BYTES && this.mayDestroy()) this.trim();
    return this.create(width, height);
  }

  /** Of the smallest free textures at least that large that which holds nothing, or was not used for longest. */
  private smallestFree(width: number, height: number): OperandTexture | null {
    const fitting = this.free.filter((texture) => texture.width >= width && texture.height >= height);
    return fitting.length === 0
      ? null
      : fitting.reduce((best, other) =>
          other.bytes < best.bytes || (other.bytes === best.bytes && best.copied && !other.copied) ? other : best,
        );
  }

  private take(texture: OperandTexture): OperandTexture {
    this.note(texture, null);
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
    this.onDestroy();
    for (const texture of this.idle()) {
      this.note(texture, null);
      texture.gpu.destroy();
      this.ledger.drop(texture.bytes);
    }
    this.free = this.free.filter(({ captures }) => captures > 0);
  }

  private idle(): OperandTexture[] {
    return this.free.filter(({ captures }) => captures === 0);
  }

  /** What a texture of at least that size has, in texels. */
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
