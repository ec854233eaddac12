/** Pipelines, bind groups and command encoding: many dispatches a pass, many passes a submit, a bind group for each different dispatch. */
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

/** What watches a dispatcher (profiler.ts). */
export interface Probe {
  /** Whether every dispatch gets a pass, or a submit, of its own. */
  readonly isolate: 'no' | 'pass' | 'submit';
  readonly queue: CommandSink;
  beginPass(): GPUComputePassDescriptor | undefined;
  dispatched(kernel: Kernel, params: Readonly<Record<string, number>>, bound: readonly Bound[], grid: Grid): void;
  /** Before an encoder is finished. */
  finishing(encoder: GPUCommandEncoder): void;
}

/** Who must know which buffers work writes to (textures.ts). */
export interface WriteObserver {
  /** Work that writes to a buffer was recorded. */
  written(buffer: number): void;
  /** A list of commands is encoded: it may write to anything. */
  replaying(): void;
}

/** A submit costs about as much as a dispatch; submitting this often lets the device start while JavaScript still records. */
const DISPATCHES_PER_SUBMIT = 96;
/** Beyond this the cache of bind groups starts anew. One costs 17 to 25 us to make, and on lavapipe a memory mapping, of which a process may have 65,530. */
const MAX_BIND_GROUPS = 8192;

interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly id: number;
}

class CompileError extends Error {
  override readonly name = 'CompileError';
}

/** Formats WGSL messages with the lines they speak of. */
function formatCompilation(kernel: Kernel, messages: readonly GPUCompilationMessage[]): string {
  const lines = kernel.source.split('\n');
  const shown = messages.map((m) => {
    const from = Math.max(0, m.lineNum - 3);
    const excerpt = lines
      .slice(from, m.lineNum + 2)
      .map((line, i) => `${from + i + 1 === m.lineNum ? '>' : ' '} ${String(from + i + 1).padStart(4)} | ${line}`);
    return `${m.type} at ${m.lineNum}:${m.linePos}: ${m.message}\n${excerpt.join('\n')}`;
  });
  return shown.join('\n');
}

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

export class Dispatcher {
  private readonly compiled = new Map<string, CompiledKernel>();
  private readonly layouts = new Map<string, { layout: GPUBindGroupLayout; pipelineLayout: GPUPipelineLayout }>();
  /**
   * The bind groups of what is encoded at once, by kernel, resources and params, and those params: a dispatch that was there before creates nothing and writes nothing.
   * No dynamic offsets: for each of them lavapipe makes a descriptor set of its own at each dispatch, which takes it some 45 us.
   */
  private readonly bindGroups = new Map<string, GPUBindGroup>();
  private readonly params: ParamBlock;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private pipeline: GPUComputePipeline | null = null;
  /** While a capture is recorded, commands go to its list instead of the encoder. */
  captureList: CommandList | null = null;
  private pending = 0;
  private total = 0;
  private readonly checks = new Set<Promise<void>>();
  private failure: Error | null = null;
  private probe: Probe | null = null;
  private queue: CommandSink;

  constructor(
    private readonly device: GPUDevice,
    private readonly observer: WriteObserver,
  ) {
    this.queue = device.queue;
    this.params = new ParamBlock(device, MAX_BIND_GROUPS);
    device.addEventListener('uncapturederror', (event) => this.fail(new Error(`WebGPU: ${event.error.message}`)));
  }

  /** Dispatches encoded since the device was opened. */
  get dispatches(): number {
    return this.total;
  }

  /** Remembers the first error; a shader that does not compile outranks what follows from it. */
  fail(error: Error): void {
    if (this.failure === null || (error instanceof CompileError && !(this.failure instanceof CompileError)))
      this.failure = error;
  }

  /** Records one dispatch. A grid with a zero is nothing to do. */
  run<P extends string, B extends string>(
    kernel: Kernel<P, B>,
    params: Readonly<Record<P, number>>,
    buffers: Readonly<Record<B, Bindable>>,
    grid: Grid,
  ): void {
    if (grid[0] === 0 || grid[1] === 0 || grid[2] === 0) return;
    const compiled = this.compile(kernel);
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

  /** Records a copy between two buffers. */
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

  /** Records a copy of a matrix into an operand texture. */
  copyToTexture(
    { gpu: source, offset: sourceOffset }: BufferRange,
    lines: TextureLines,
    texture: OperandTexture,
  ): void {
    this.add({ kind: 'texture', source, sourceOffset, ...lines, texture });
  }

  /** Records zeroing a range. */
  clear(range: BufferRange, bytes: number): void {
    this.observer.written(range.id);
    if (bytes > 0) this.add({ kind: 'clear', buffer: range.gpu, offset: range.offset, bytes });
  }

  /** Encodes the commands of a list, in their order, after what was recorded so far. */
  replay({ commands }: CommandList): void {
    this.observer.replaying();
    for (const command of commands) this.encode(command);
  }

  /** Writes bytes at once; work recorded so far is submitted before, so that it still sees what was there. In a capture the bytes become constants of it. */
  write(range: BufferRange, data: ArrayBuffer, byteOffset: number, bytes: number): void {
    this.observer.written(range.id);
    if (this.captureList) {
      this.captureList.write(range.gpu, range.offset, data, byteOffset, bytes);
      return;
    }
    this.flush();
    if (bytes > 0) this.queue.writeBuffer(range.gpu, range.offset, data, byteOffset, bytes);
  }

  /** Submits what was encoded. */
  flush(): void {
    this.closePass();
    if (!this.encoder) return;
    this.params.upload(this.queue);
    this.probe?.finishing(this.encoder);
    this.queue.submit([this.encoder.finish()]);
    this.encoder = null;
    this.pending = 0;
  }

  /** Waits for the checks of shaders compiled so far and throws the first error that the device reported. */
  async check(): Promise<void> {
    while (this.checks.size > 0) await Promise.all(this.checks);
    if (this.failure) throw this.failure;
  }

  /** As `check`, but gives the error back and forgets it: for trials of work that may fail, which nothing else depends on. */
  async takeFailure(): Promise<Error | null> {
    while (this.checks.size > 0) await Promise.all(this.checks);
    const { failure } = this;
    this.failure = null;
    return failure;
  }

  /** Lets a probe see all that is recorded from here on; null ends that. */
  watch(probe: Probe | null): void {
    this.flush();
    this.probe = probe;
    this.queue = probe?.queue ?? this.device.queue;
  }

  /** Submits what was encoded and forgets what it named. */
  dropBindGroups(): void {
    this.flush();
    this.bindGroups.clear();
    this.params.reset();
  }

  private add(command: Command): void {
    if (this.captureList) this.captureList.commands.push(command);
    else this.encode(command);
  }

  /** The one place where commands reach the encoder, recorded ones and others. */
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

  private compile(kernel: Kernel): CompiledKernel {
    let compiled = this.compiled.get(kernel.source);
    if (!compiled) {
      const { layout, pipelineLayout } = this.layoutOf(kernel);
      this.device.pushErrorScope('validation');
      const module = this.device.createShaderModule({ label: kernel.name, code: kernel.source });
      const pipeline = this.device.createComputePipeline({
        label: kernel.name,
        layout: pipelineLayout,
        compute: { module, entryPoint: 'main' },
      });
      const check = Promise.all([this.device.popErrorScope(), module.getCompilationInfo()]).then(([error, info]) => {
        const errors = info.messages.filter((m) => m.type === 'error');
        if (errors.length > 0)
          this.fail(new CompileError(`kernel ${kernel.name} does not compile\n${formatCompilation(kernel, errors)}`));
        else if (error) this.fail(new CompileError(`kernel ${kernel.name}: ${error.message}`));
      });
      this.checks.add(check);
      void check.finally(() => this.checks.delete(check));
      compiled = { pipeline, layout, id: this.compiled.size };
      this.compiled.set(kernel.source, compiled);
    }
    return compiled;
  }

  private layoutOf(kernel: Kernel): { layout: GPUBindGroupLayout; pipelineLayout: GPUPipelineLayout } {
    const key = kernel.buffers.map((b) => b.access).join(' ');
    let found = this.layouts.get(key);
    if (!found) {
      const visibility = GPUShaderStage.COMPUTE;
      const layout = this.device.createBindGroupLayout({
        entries: [
          { binding: 0, visibility, buffer: { type: 'uniform' } },
          ...kernel.buffers.map((b, i) => ({
            binding: i + 1,
            visibility,
            ...(b.access === 'texture'
              ? { storageTexture: { access: 'read-only' as const, format: 'rgba32float' as const } }
              : { buffer: { type: b.access === 'read' ? ('read-only-storage' as const) : ('storage' as const) } }),
          })),
        ],
      });
      found = { layout, pipelineLayout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }) };
      this.layouts.set(key, found);
    }
    return found;
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
