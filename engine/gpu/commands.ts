/**
 * Commands as data. The dispatcher encodes commands at once, or a capture keeps them in a list and each replay encodes
 * them.
 */
import { MAX_PARAMS, type Grid, type Kernel } from '../../kernels/kernel.ts';
import type { Bound, OperandTexture, TextureLines } from './resources.ts';

/** Destination of commands and host data: the device's queue, or a profiler in front of it. */
export interface CommandSink {
  submit(commands: Iterable<GPUCommandBuffer>): void;
  writeBuffer(buffer: GPUBuffer, offset: number, data: ArrayBuffer, dataOffset: number, size: number): void;
}

/** One dispatch. Only the profiler reads `kernel`, `params` and `bound`. */
export interface DispatchCommand {
  readonly kind: 'dispatch';
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly grid: Grid;
  readonly kernel: Kernel;
  readonly params: Readonly<Record<string, number>>;
  readonly bound: readonly Bound[];
}

/** A command that is encoded outside of a compute pass. Offsets and sizes are in bytes. */
export type TransferCommand =
  | {
      readonly kind: 'copy';
      readonly source: GPUBuffer;
      readonly sourceOffset: number;
      readonly destination: GPUBuffer;
      readonly destinationOffset: number;
      readonly bytes: number;
    }
  | (TextureLines & {
      readonly kind: 'texture';
      readonly source: GPUBuffer;
      readonly sourceOffset: number;
      readonly texture: OperandTexture;
    })
  | { readonly kind: 'clear'; readonly buffer: GPUBuffer; readonly offset: number; readonly bytes: number };

export type Command = DispatchCommand | TransferCommand;

const SLOT_BYTES = MAX_PARAMS * 4;
/** Dispatches per parameter block of a command list. */
const LIST_SLOTS = 1024;

/** The params of one dispatch on the device: one slot of a ParamBlock. */
export type ParamSlot = Readonly<GPUBufferBinding>;

/** A uniform buffer with slots, and its copy on the host. Each slot holds the params of one dispatch. */
export class ParamBlock {
  private readonly gpu: GPUBuffer;
  private readonly staging: ArrayBuffer;
  private readonly u32: Uint32Array;
  private readonly i32: Int32Array;
  private readonly f32: Float32Array;
  /** Number of slots in use. */
  private used = 0;
  /** Number of slots that are on the device already. */
  private uploaded = 0;

  constructor(
    device: GPUDevice,
    private readonly slots: number,
  ) {
    this.gpu = device.createBuffer({
      label: 'params',
      size: SLOT_BYTES * slots,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.staging = new ArrayBuffer(SLOT_BYTES * slots);
    this.u32 = new Uint32Array(this.staging);
    this.i32 = new Int32Array(this.staging);
    this.f32 = new Float32Array(this.staging);
  }

  get full(): boolean {
    return this.used === this.slots;
  }

  /** Puts the params of a dispatch into the next slot. */
  add<P extends string>(kernel: Kernel<P>, params: Readonly<Record<P, number>>): ParamSlot {
    const slot = this.used++;
    let at = slot * MAX_PARAMS;
    for (const { name, type } of kernel.params) {
      const value = params[name];
      if (type === 'f32') this.f32[at++] = value;
      else if (type === 'u32') this.u32[at++] = value;
      else this.i32[at++] = value;
    }
    return { buffer: this.gpu, offset: slot * SLOT_BYTES, size: SLOT_BYTES };
  }

  /** Writes the slots added since the last upload to the device. */
  upload(queue: CommandSink): void {
    const { used, uploaded } = this;
    if (used > uploaded)
      queue.writeBuffer(
        this.gpu,
        uploaded * SLOT_BYTES,
        this.staging,
        uploaded * SLOT_BYTES,
        (used - uploaded) * SLOT_BYTES,
      );
    this.uploaded = used;
  }

  /** Frees all slots. Work that uses them must have been submitted. */
  reset(): void {
    this.used = this.uploaded = 0;
  }

  destroy(): void {
    this.gpu.destroy();
  }
}

/**
 * Commands in order. The list owns the memory of their params and constants,
 * so the commands can be encoded again at any later time.
 */
export class CommandList {
  readonly commands: Command[] = [];
  private readonly blocks: ParamBlock[] = [];
  private readonly constants: GPUBuffer[] = [];

  constructor(private readonly device: GPUDevice) {}

  /** Stores the params of a dispatch. */
  addParams<P extends string>(kernel: Kernel<P>, params: Readonly<Record<P, number>>): ParamSlot {
    let block = this.blocks.at(-1);
    if (!block || block.full) {
      block = new ParamBlock(this.device, LIST_SLOTS);
      this.blocks.push(block);
    }
    return block.add(kernel, params);
  }

  /** Keeps host data as a constant of the list. Each replay copies the constant to its destination. */
  write(destination: GPUBuffer, destinationOffset: number, data: ArrayBuffer, byteOffset: number, bytes: number): void {
    if (bytes === 0) return;
    const source = this.device.createBuffer({
      label: 'constant',
      size: bytes,
      usage: GPUBufferUsage.COPY_SRC,
      mappedAtCreation: true,
    });
    new Uint8Array(source.getMappedRange()).set(new Uint8Array(data, byteOffset, bytes));
    source.unmap();
    this.constants.push(source);
    this.commands.push({ kind: 'copy', source, sourceOffset: 0, destination, destinationOffset, bytes });
  }

  get dispatches(): number {
    return this.commands.filter(({ kind }) => kind === 'dispatch').length;
  }

  /** Writes the params to the device. Call it once, when the list is complete. */
  seal(): void {
    for (const block of this.blocks) block.upload(this.device.queue);
  }

  /** Frees the list's memory. Encoded commands must have been submitted. */
  destroy(): void {
    for (const block of this.blocks) block.destroy();
    for (const buffer of this.constants) buffer.destroy();
    this.commands.length = 0;
  }
}
