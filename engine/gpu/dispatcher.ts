/**
 * The dispatcher: encodes commands, with many dispatches per pass and many passes per submit.
 * Each different dispatch has one cached bind group.
 */
import type { Kernel, Grid } from '../../kernels/kernel.ts';
import { ParamBlock, type Command, type CommandList, type CommandSink, type ParamSlot } from './commands.ts';
import {
  TEXEL_BYTES,
  type Bindable,
  type Bound,
  type BufferRange,
  type OperandTexture,
  type TextureLines,
} from './resources.ts';
import { OutOfMemoryError, saysOutOfMemory } from './out-of-memory.ts';
import { CompileError, PipelineCache, type CompiledKernel } from './pipelines.ts';

/** Observes a dispatcher. The profiler (engine/profiling/profiler.ts) implements it. */
export interface Probe {
  /** Whether every dispatch gets its own pass, or its own submit. */
  readonly isolate: 'no' | 'pass' | 'submit';
  readonly queue: CommandSink;
  beginPass(): GPUComputePassDescriptor | undefined;
  dispatched(kernel: Kernel, params: Readonly<Record<string, number>>, bound: readonly Bound[], grid: Grid): void;
  /** Called before an encoder is finished. */
  finishing(encoder: GPUCommandEncoder): void;
}

/** Gets notice of writes to buffers. The texture pool (textures.ts) needs it. */
export interface WriteObserver {
  /** A command writes to the buffer. */
  written(buffer: number): void;
  /** A captured list of commands will be encoded. It may write to any buffer. */
  replaying(): void;
}

/**
 * Dispatches per submit. A submit costs about as much as a dispatch. With this number the device starts while
 * JavaScript still encodes.
 */
const DISPATCHES_PER_SUBMIT = 96;
/**
 * Maximum number of cached bind groups. A full cache is emptied. Creating a bind group takes 17 to 25 us. On lavapipe
 * each bind group also takes a memory mapping, of which a process may have 65,530.
 */
const MAX_BIND_GROUPS = 8192;

/** Copies a matrix block by block, then its rest, into a texture. */
function copyToTexture(
  encoder: GPUCommandEncoder,
  {
    source: buffer,
    sourceOffset,
    lines,
    texels,
    rest,
    texture,
    layout: { blocks, blockLines, pitch },
  }: Extract<Command, { kind: 'texture' }>,
): void {
  const bytesPerRow = texels * TEXEL_BYTES;
  texture.matrixBytes = lines * bytesPerRow + rest * TEXEL_BYTES;
  for (let block = 0; block < blocks; block++) {
    const first = block * blockLines;
    const height = Math.min(blockLines, lines - first);
    if (height > 0)
      encoder.copyBufferToTexture(
        { buffer, offset: sourceOffset + first * bytesPerRow, bytesPerRow },
        { texture: texture.gpu, origin: [block * pitch, 0] },
        [texels, height],
      );
  }
  if (rest > 0)
    encoder.copyBufferToTexture(
      { buffer, offset: sourceOffset + lines * bytesPerRow },
      { texture: texture.gpu, origin: [0, lines] },
      [rest, 1],
    );
}

/** Encodes the commands of a device, or adds them to the list of a capture. */
export class Dispatcher {
  readonly pipelines: PipelineCache;
  /**
   * Bind groups outside of captures, by kernel, resources and params. `params` holds their params.
   * A dispatch that was seen before creates nothing and writes nothing.
   * Dynamic offsets are not used: with them lavapipe makes a descriptor set at each dispatch, which takes about 45 us.
   */
  private readonly bindGroups = new Map<string, GPUBindGroup>();
  private readonly params: ParamBlock;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private pipeline: GPUComputePipeline | null = null;
  /** The list of the capture in progress. Commands go there instead of the encoder. */
  captureList: CommandList | null = null;
  private pending = 0;
  private total = 0;
  private failure: Error | null = null;
  private probe: Probe | null = null;
  private queue: CommandSink;

  constructor(
    private readonly device: GPUDevice,
    private readonly observer: WriteObserver,
  ) {
    this.queue = device.queue;
    this.pipelines = new PipelineCache(device, (error) => this.fail(error));
    this.params = new ParamBlock(device, MAX_BIND_GROUPS);
    device.addEventListener('uncapturederror', ({ error }) => {
      const message = `WebGPU: ${error.message}`;
      // By its name, because the class is not global in every environment.
      const outOfMemory = error.constructor.name === 'GPUOutOfMemoryError' || saysOutOfMemory(message);
      this.fail(outOfMemory ? new OutOfMemoryError(message) : new Error(message));
    });
  }

  /** Number of dispatches since the device was opened. */
  get dispatches(): number {
    return this.total;
  }

  /** Remembers the first error. A CompileError replaces other errors, which usually follow from it. */
  fail(error: Error): void {
    if (this.failure === null || (error instanceof CompileError && !(this.failure instanceof CompileError)))
      this.failure = error;
  }

  /** Adds one dispatch. If a side of the grid is 0, nothing is added. */
  run<P extends string, B extends string>(
    kernel: Kernel<P, B>,
    params: Readonly<Record<P, number>>,
    buffers: Readonly<Record<B, Bindable>>,
    grid: Grid,
  ): void {
    if (grid[0] === 0 || grid[1] === 0 || grid[2] === 0) return;
    const compiled = this.pipelines.get(kernel);
    const bound = kernel.buffers.map((b): Bound => {
      const bindable: Bindable = buffers[b.name];
      const resource: Bound = 'storage' in bindable ? bindable.storage.range : bindable;
      if (b.access === 'write') this.observer.written(resource.id);
      return resource;
    });
    this.add({
      kind: 'dispatch',
      pipeline: compiled.pipeline,
      bindGroup: this.bindGroup(kernel, compiled, params, bound),
      grid,
      kernel,
      params,
      bound,
    });
  }

  /** Adds a copy between two buffers. */
  copy(source: BufferRange, destination: BufferRange, bytes: number): void {
    if (bytes === 0) return;
    this.observer.written(destination.id);
    this.add({
      kind: 'copy',
      source: source.gpu,
      sourceOffset: source.offset,
      destination: destination.gpu,
      destinationOffset: destination.offset,
      bytes,
    });
  }

  /** Adds a copy of a matrix into an operand texture. */
  copyToTexture(
    { gpu: source, offset: sourceOffset }: BufferRange,
    lines: TextureLines,
    texture: OperandTexture,
  ): void {
    this.add({ kind: 'texture', source, sourceOffset, ...lines, texture });
  }

  /** Adds a command that sets a range to zero. */
  clear(range: BufferRange, bytes: number): void {
    this.observer.written(range.id);
    if (bytes > 0) this.add({ kind: 'clear', buffer: range.gpu, offset: range.offset, bytes });
  }

  /** Encodes the commands of a list, in order, after all work so far. */
  replay({ commands }: CommandList): void {
    this.observer.replaying();
    for (const command of commands) this.encode(command);
  }

  /**
   * Writes bytes at once. Work so far is submitted first, so that it still sees the old values.
   * In a capture the bytes become a constant of its list.
   */
  write(range: BufferRange, data: ArrayBuffer, byteOffset: number, bytes: number): void {
    this.observer.written(range.id);
    if (this.captureList) {
      this.captureList.write(range.gpu, range.offset, data, byteOffset, bytes);
      return;
    }
    this.flush();
    if (bytes > 0) this.queue.writeBuffer(range.gpu, range.offset, data, byteOffset, bytes);
  }

  /** Submits all encoded work. */
  flush(): void {
    this.closePass();
    if (!this.encoder) return;
    this.params.upload(this.queue);
    this.probe?.finishing(this.encoder);
    this.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.pending = 0;
  }

  /** Waits for the checks of all kernels compiled so far. Throws the first error that the device reported. */
  async check(): Promise<void> {
    await this.pipelines.settled();
    if (this.failure) throw this.failure;
  }

  /** As `check`, but returns the error and forgets it. For trials that may fail, if no other work depends on them. */
  async takeFailure(): Promise<Error | null> {
    await this.pipelines.settled();
    const { failure } = this;
    this.failure = null;
    return failure;
  }

  /** Shows all further work to a probe. With null, no probe observes the dispatcher any more. */
  watch(probe: Probe | null): void {
    this.flush();
    this.probe = probe;
    this.queue = probe?.queue ?? this.device.queue;
  }

  /** Submits the encoded work and empties the cache of bind groups. */
  dropBindGroups(): void {
    this.flush();
    this.bindGroups.clear();
    this.params.reset();
  }

  private add(command: Command): void {
    if (this.captureList) this.captureList.commands.push(command);
    else this.encode(command);
  }

  /** The only place where commands reach the encoder, in a replay or otherwise. */
  private encode(command: Command): void {
    if (command.kind === 'dispatch') {
      const { pipeline, bindGroup, grid } = command;
      const { probe } = this;
      if (probe?.isolate === 'submit') this.flush();
      const pass = this.openPass();
      if (pipeline !== this.pipeline) pass.setPipeline(pipeline);
      this.pipeline = pipeline;
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
      this.total++;
      if (probe) {
        probe.dispatched(command.kernel, command.params, command.bound, grid);
        if (probe.isolate === 'pass') this.closePass();
        else if (probe.isolate === 'submit') this.flush();
      }
      if (++this.pending >= DISPATCHES_PER_SUBMIT) this.flush();
      return;
    }
    this.closePass();
    const encoder = this.openEncoder();
    if (command.kind === 'clear') encoder.clearBuffer(command.buffer, command.offset, command.bytes);
    else if (command.kind === 'copy')
      encoder.copyBufferToBuffer(
        command.source,
        command.sourceOffset,
        command.destination,
        command.destinationOffset,
        command.bytes,
      );
    else copyToTexture(encoder, command);
  }

  private openEncoder(): GPUCommandEncoder {
    this.encoder ??= this.device.createCommandEncoder();
    return this.encoder;
  }

  private openPass(): GPUComputePassEncoder {
    this.pass ??= this.openEncoder().beginComputePass(this.probe?.beginPass());
    return this.pass;
  }

  private closePass(): void {
    this.pass?.end();
    this.pass = this.pipeline = null;
  }

  private bindGroup<P extends string>(
    kernel: Kernel<P>,
    compiled: CompiledKernel,
    params: Readonly<Record<P, number>>,
    bound: readonly Bound[],
  ): GPUBindGroup {
    if (this.captureList) return this.createBindGroup(compiled, this.captureList.addParams(kernel, params), bound);
    let key = String(compiled.id);
    for (const resource of bound)
      key += 'view' in resource ? `,t${resource.id}` : `,${resource.id}:${resource.offset}:${resource.bytes}`;
    for (const { name } of kernel.params) key += Object.is(params[name], -0) ? ';-0' : `;${params[name]}`;
    let group = this.bindGroups.get(key);
    if (!group) {
      if (this.params.full) this.dropBindGroups();
      group = this.createBindGroup(compiled, this.params.add(kernel, params), bound);
      this.bindGroups.set(key, group);
    }
    return group;
  }

  private createBindGroup({ layout }: CompiledKernel, params: ParamSlot, bound: readonly Bound[]): GPUBindGroup {
    return this.device.createBindGroup({
      layout,
      entries: [
        { binding: 0, resource: params },
        ...bound.map((resource, i) => ({
          binding: i + 1,
          resource:
            'view' in resource
              ? resource.view
              : { buffer: resource.gpu, offset: resource.offset, size: resource.bytes },
        })),
      ],
    });
  }
}
