/** Pipelines, bind groups and command encoding: many dispatches a pass, many passes a submit, params through one ring of uniforms. */
import type { Kernel, Grid } from '../kernels/kernel.ts';
import { MAX_PARAMS } from '../kernels/kernel.ts';
import type { OperandTexture, TextureLayout } from './textures.ts';

/** A range of a buffer as a dispatch binds it. */
export interface BufferRange {
  readonly id: number;
  readonly gpu: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Anything with a buffer to bind: a tensor. */
export interface BufferHolder {
  readonly storage: { readonly range: BufferRange };
}

export type Bindable = BufferHolder | OperandTexture;

/** Where commands and host data go: the device's queue, or while profiling something before it. */
export interface CommandSink {
  submit(commands: Iterable<GPUCommandBuffer>): void;
  writeBuffer(buffer: GPUBuffer, offset: number, data: ArrayBuffer, dataOffset: number, size: number): void;
}

/** What watches a dispatcher (profiler.ts). */
export interface Probe {
  /** Whether every dispatch gets a pass, or a submit, of its own. */
  readonly isolate: 'no' | 'pass' | 'submit';
  readonly queue: CommandSink;
  beginPass(): GPUComputePassDescriptor | undefined;
  dispatched(kernel: Kernel, params: Readonly<Record<string, number>>, bound: readonly Bindable[], grid: Grid): void;
  /** Before an encoder is finished. */
  finishing(encoder: GPUCommandEncoder): void;
}

const SLOT_BYTES = MAX_PARAMS * 4;
const SLOTS = 1024;
/** A submit costs about as much as a dispatch; submitting this often lets the device start while JavaScript still records. */
const DISPATCHES_PER_SUBMIT = 96;
const MAX_BIND_GROUPS = 16384;

interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly layoutId: number;
}

class CompileError extends Error {
  override readonly name = 'CompileError';
}

/** Formats WGSL messages with the lines they speak of. */
function formatCompilation(kernel: Kernel, messages: readonly GPUCompilationMessage[]): string {
  const lines = kernel.source.split('\n');
  const shown = messages.map((m) => {
    const from = Math.max(0, m.lineNum - 3);
    const excerpt = lines.slice(from, m.lineNum + 2).map((line, i) => `${from + i + 1 === m.lineNum ? '>' : ' '} ${String(from + i + 1).padStart(4)} | ${line}`);
    return `${m.type} at ${m.lineNum}:${m.linePos}: ${m.message}\n${excerpt.join('\n')}`;
  });
  return shown.join('\n');
}

export class Dispatcher {
  private readonly compiled = new Map<string, CompiledKernel>();
  private readonly layouts = new Map<string, { id: number; layout: GPUBindGroupLayout; pipelineLayout: GPUPipelineLayout }>();
  private readonly bindGroups = new Map<string, GPUBindGroup>();
  private readonly uniforms: GPUBuffer;
  private readonly staging = new ArrayBuffer(SLOT_BYTES * SLOTS);
  private readonly stagingU32 = new Uint32Array(this.staging);
  private readonly stagingI32 = new Int32Array(this.staging);
  private readonly stagingF32 = new Float32Array(this.staging);
  private slot = 0;
  private firstSlot = 0;
  private encoder: GPUCommandEncoder | null = null;
  private pass: GPUComputePassEncoder | null = null;
  private pending = 0;
  private total = 0;
  private readonly checks = new Set<Promise<void>>();
  private failure: Error | null = null;
  private probe: Probe | null = null;
  private queue: CommandSink;

  constructor(private readonly device: GPUDevice) {
    this.queue = device.queue;
    this.uniforms = device.createBuffer({ label: 'params', size: SLOT_BYTES * SLOTS, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST });
    device.addEventListener('uncapturederror', (event) => this.fail(new Error(`WebGPU: ${event.error.message}`)));
  }

  /** Dispatches recorded since the device was opened. */
  get dispatches(): number {
    return this.total;
  }

  /** Remembers the first error; a shader that does not compile outranks what follows from it. */
  fail(error: Error): void {
    if (this.failure === null || (error instanceof CompileError && !(this.failure instanceof CompileError))) this.failure = error;
  }

  /** Records one dispatch. A grid with a zero is nothing to do. */
  run<P extends string, B extends string>(kernel: Kernel<P, B>, params: Readonly<Record<P, number>>, buffers: Readonly<Record<B, Bindable>>, grid: Grid): void {
    if (grid[0] === 0 || grid[1] === 0 || grid[2] === 0) return;
    const compiled = this.compile(kernel);
    if (this.probe?.isolate === 'submit') this.flush();
    if (this.slot === SLOTS) {
      this.flush();
      this.slot = this.firstSlot = 0;
    }
    const base = this.slot * MAX_PARAMS;
    let at = base;
    for (const { name, type } of kernel.params) {
      const value = params[name];
      if (type === 'f32') this.stagingF32[at++] = value;
      else if (type === 'u32') this.stagingU32[at++] = value;
      else this.stagingI32[at++] = value;
    }
    const bound = kernel.buffers.map((b) => buffers[b.name]);
    const bindGroup = this.bindGroup(compiled, bound);
    const pass = this.openPass();
    pass.setPipeline(compiled.pipeline);
    pass.setBindGroup(0, bindGroup, [this.slot * SLOT_BYTES]);
    pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
    this.slot++;
    this.total++;
    if (this.probe) {
      this.probe.dispatched(kernel, params, bound, grid);
      if (this.probe.isolate === 'pass') this.closePass();
      else if (this.probe.isolate === 'submit') this.flush();
    }
    if (++this.pending >= DISPATCHES_PER_SUBMIT) this.flush();
  }

  /** Records a copy between two buffers. */
  copy(source: BufferRange, destination: BufferRange, bytes: number): void {
    if (bytes === 0) return;
    this.closePass();
    this.openEncoder().copyBufferToBuffer(source.gpu, source.offset, destination.gpu, destination.offset, bytes);
  }

  /** Records a copy of a matrix, lines of `texels` vec4s one behind the other, into an operand texture. */
  copyToTexture(source: BufferRange, lines: number, texels: number, texture: OperandTexture, { blocks, blockLines, pitch }: TextureLayout): void {
    this.closePass();
    const encoder = this.openEncoder();
    const bytesPerRow = texels * 16;
    texture.matrixBytes = lines * bytesPerRow;
    for (let block = 0; block < blocks; block++) {
      const first = block * blockLines;
      encoder.copyBufferToTexture({ buffer: source.gpu, offset: source.offset + first * bytesPerRow, bytesPerRow },
        { texture: texture.gpu, origin: [block * pitch, 0] }, [texels, Math.min(blockLines, lines - first)]);
    }
  }

  /** Records zeroing a range. */
  clear(range: BufferRange, bytes: number): void {
    if (bytes === 0) return;
    this.closePass();
    this.openEncoder().clearBuffer(range.gpu, range.offset, bytes);
  }

  /** Writes bytes at once; work recorded so far is submitted before, so that it still sees what was there. */
  write(range: BufferRange, data: ArrayBuffer, byteOffset: number, bytes: number): void {
    this.flush();
    if (bytes > 0) this.queue.writeBuffer(range.gpu, range.offset, data, byteOffset, bytes);
  }

  /** Submits what was recorded. */
  flush(): void {
    this.closePass();
    if (!this.encoder) return;
    if (this.slot > this.firstSlot) {
      const offset = this.firstSlot * SLOT_BYTES;
      this.queue.writeBuffer(this.uniforms, offset, this.staging, offset, (this.slot - this.firstSlot) * SLOT_BYTES);
      this.firstSlot = this.slot;
    }
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

  /** Lets a probe see all that is recorded from here on; null ends that. */
  watch(probe: Probe | null): void {
    this.flush();
    this.probe = probe;
    this.queue = probe?.queue ?? this.device.queue;
  }

  dropBindGroups(): void {
    this.bindGroups.clear();
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
    this.pass = null;
  }

  private compile(kernel: Kernel): CompiledKernel {
    let compiled = this.compiled.get(kernel.source);
    if (!compiled) {
      const { id, layout, pipelineLayout } = this.layoutOf(kernel);
      this.device.pushErrorScope('validation');
      const module = this.device.createShaderModule({ label: kernel.name, code: kernel.source });
      const pipeline = this.device.createComputePipeline({ label: kernel.name, layout: pipelineLayout, compute: { module, entryPoint: 'main' } });
      const check = Promise.all([this.device.popErrorScope(), module.getCompilationInfo()]).then(([error, info]) => {
        const errors = info.messages.filter((m) => m.type === 'error');
        if (errors.length > 0) this.fail(new CompileError(`kernel ${kernel.name} does not compile\n${formatCompilation(kernel, errors)}`));
        else if (error) this.fail(new CompileError(`kernel ${kernel.name}: ${error.message}`));
      });
      this.checks.add(check);
      void check.finally(() => this.checks.delete(check));
      compiled = { pipeline, layout, layoutId: id };
      this.compiled.set(kernel.source, compiled);
    }
    return compiled;
  }

  private layoutOf(kernel: Kernel): { id: number; layout: GPUBindGroupLayout; pipelineLayout: GPUPipelineLayout } {
    const key = kernel.buffers.map((b) => b.access).join(' ');
    let found = this.layouts.get(key);
    if (!found) {
      const visibility = GPUShaderStage.COMPUTE;
      const layout = this.device.createBindGroupLayout({
        entries: [
          { binding: 0, visibility, buffer: { type: 'uniform', hasDynamicOffset: true } },
          ...kernel.buffers.map((b, i) => ({ binding: i + 1, visibility, ...(b.access === 'texture' ? { storageTexture: { access: 'read-only' as const, format: 'rgba32float' as const } }
            : { buffer: { type: b.access === 'read' ? ('read-only-storage' as const) : ('storage' as const) } }) })),
        ],
      });
      found = { id: this.layouts.size, layout, pipelineLayout: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }) };
      this.layouts.set(key, found);
    }
    return found;
  }

  private bindGroup(kernel: CompiledKernel, bindables: readonly Bindable[]): GPUBindGroup {
    let key = String(kernel.layoutId);
    for (const bindable of bindables) {
      if ('storage' in bindable) {
        const { range } = bindable.storage;
        key += `,${range.id}:${range.offset}:${range.bytes}`;
      } else key += `,t${bindable.id}`;
    }
    let group = this.bindGroups.get(key);
    if (!group) {
      if (this.bindGroups.size >= MAX_BIND_GROUPS) this.bindGroups.clear();
      group = this.device.createBindGroup({
        layout: kernel.layout,
        entries: [
          { binding: 0, resource: { buffer: this.uniforms, offset: 0, size: SLOT_BYTES } },
          ...bindables.map((bindable, i) => {
            if (!('storage' in bindable)) return { binding: i + 1, resource: bindable.view };
            const { gpu: buffer, offset, bytes: size } = bindable.storage.range;
            return { binding: i + 1, resource: { buffer, offset, size } };
          }),
        ],
      });
      this.bindGroups.set(key, group);
    }
    return group;
  }
}
