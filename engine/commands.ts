/** Commands as data: what the dispatcher encodes at once, and what a capture keeps in a list and encodes again and again. */
import { MAX_PARAMS, type Grid, type Kernel } from '../kernels/kernel.ts';
import type { BufferRange } from './dispatcher.ts';
import type { OperandTexture, TextureLines } from './textures.ts';

/** Memory as a dispatch binds it. */
export type Bound = BufferRange | OperandTexture;

/** Where commands and host data go: the device's queue, or while profiling something before it. */
export interface CommandSink {
  submit(commands: Iterable<GPUCommandBuffer>): void;
  writeBuffer(buffer: GPUBuffer, offset: number, data: ArrayBuffer, dataOffset: number, size: number): void;
}

/** One dispatch; `offsets` says where in the uniform buffer of the bind group its params are. Kernel, params and what is bound are for whoever watches. */
export interface DispatchCommand {
  readonly kind: 'dispatch';
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly offsets: readonly number[];
  readonly grid: Grid;
  readonly kernel: Kernel;
  readonly params: Readonly<Record<string, number>>;
  readonly bound: readonly Bound[];
}

/** What is encoded outside of a compute pass. Offsets and sizes in bytes. */
export type TransferCommand =
  | { readonly kind: 'copy'; readonly source: GPUBuffer; readonly sourceOffset: number; readonly destination: GPUBuffer; readonly destinationOffset: number; readonly bytes: number }
  | TextureLines & { readonly kind: 'texture'; readonly source: GPUBuffer; readonly sourceOffset: number; readonly texture: OperandTexture }
  | { readonly kind: 'clear'; readonly buffer: GPUBuffer; readonly offset: number; readonly bytes: number };

export type Command = DispatchCommand | TransferCommand;

export const SLOT_BYTES = MAX_PARAMS * 4;
/** Dispatches whose params a block holds. */
export const SLOTS = 1024;

/** A uniform buffer with a slot of params for each of many dispatches, its copy on the host, and the bind groups that name it. */
export class ParamBlock {
  readonly gpu: GPUBuffer;
  readonly bindGroups = new Map<string, GPUBindGroup>();
  private readonly staging = new ArrayBuffer(SLOT_BYTES * SLOTS);
  private readonly u32 = new Uint32Array(this.staging);
  private readonly i32 = new Int32Array(this.staging);
  private readonly f32 = new Float32Array(this.staging);

  constructor(device: GPUDevice) {
    this.gpu = device.createBuffer({ label: 'params', size: SLOT_BYTES * SLOTS, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
  }

  fill<P extends string>(slot: number, kernel: Kernel<P>, params: Readonly<Record<P, number>>): void {
    let at = slot * MAX_PARAMS;
    for (const { name, type } of kernel.params) {
      const value = params[name];
      if (type === 'f32') this.f32[at++] = value;
      else if (type === 'u32') this.u32[at++] = value;
      else this.i32[at++] = value;
    }
  }

  /** Writes slots `from` .. `to` (exclusive). */
  upload(from: number, to: number, queue: CommandSink): void {
    if (to > from) queue.writeBuffer(this.gpu, from * SLOT_BYTES, this.staging, from * SLOT_BYTES, (to - from) * SLOT_BYTES);
  }
}

/** Commands in their order, with memory of their own for params and constants, so that they can be encoded at any later time. */
export class CommandList {
  readonly commands: Command[] = [];
  private readonly blocks: ParamBlock[] = [];
  private readonly constants: GPUBuffer[] = [];
  private slots = 0;

  constructor(private readonly device: GPUDevice) {}

  /** Where the params of the next dispatch go. */
  nextSlot(): { block: ParamBlock; slot: number } {
    const slot = this.slots++ % SLOTS;
    if (slot === 0) this.blocks.push(new ParamBlock(this.device));
    return { block: this.blocks[this.blocks.length - 1], slot };
  }

  /** Data from the host become a constant of the list, copied to where they belong each time. */
  write(destination: GPUBuffer, destinationOffset: number, data: ArrayBuffer, byteOffset: number, bytes: number): void {
    if (bytes === 0) return;
    const source = this.device.createBuffer({ label: 'constant', size: bytes, usage: GPUBufferUsage.COPY_SRC, mappedAtCreation: true });
    new Uint8Array(source.getMappedRange()).set(new Uint8Array(data, byteOffset, bytes));
    source.unmap();
    this.constants.push(source);
    this.commands.push({ kind: 'copy', source, sourceOffset: 0, destination, destinationOffset, bytes });
  }

  get dispatches(): number {
    return this.slots;
  }

  /** Writes the params to the device: once, when the list is complete. */
  seal(): void {
    this.blocks.forEach((block, i) => block.upload(0, Math.min(SLOTS, this.slots - i * SLOTS), this.device.queue));
  }

  /** Frees the list's memory; what was encoded must have been submitted. */
  destroy(): void {
    for (const { gpu } of this.blocks) gpu.destroy();
    for (const buffer of this.constants) buffer.destroy();
    this.commands.length = 0;
  }
}
