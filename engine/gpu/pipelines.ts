/** Compute pipelines: one per kernel source, compiled once. Compile errors show the WGSL lines. */
import type { Kernel } from '../../kernels/kernel.ts';

export interface CompiledKernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** Names the kernel in cache keys. */
  readonly id: number;
}

/** A kernel that WebGPU rejects. */
export class CompileError extends Error {
  override readonly name = 'CompileError';
}

/** Formats WGSL messages. Each message shows the source lines around its position. */
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

/** The pipelines of a device. */
export class PipelineCache {
  private readonly compiled = new Map<string, CompiledKernel>();
  private readonly layouts = new Map<string, { layout: GPUBindGroupLayout; pipelineLayout: GPUPipelineLayout }>();
  private readonly checks = new Set<Promise<void>>();
  /** Called after a pipeline was created, with the number of pipelines. */
  onCreated: ((count: number) => void) | null = null;

  /** @param onError called with each CompileError, some time after `get` */
  constructor(
    private readonly device: GPUDevice,
    private readonly onError: (error: CompileError) => void,
  ) {}

  /** The pipeline of a kernel; compiled on the first call. */
  get(kernel: Kernel): CompiledKernel {
    let compiled = this.compiled.get(kernel.source);
    if (!compiled) {
      compiled = this.compile(kernel);
      this.compiled.set(kernel.source, compiled);
      this.onCreated?.(this.count);
    }
    return compiled;
  }

  /** Number of pipelines. */
  get count(): number {
    return this.compiled.size;
  }

  /** Waits until the errors of all kernels compiled so far are known. */
  async settled(): Promise<void> {
    while (this.checks.size > 0) await Promise.all(this.checks);
  }

  private compile(kernel: Kernel): CompiledKernel {
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
        this.onError(new CompileError(`kernel ${kernel.name} does not compile\n${formatCompilation(kernel, errors)}`));
      else if (error) this.onError(new CompileError(`kernel ${kernel.name}: ${error.message}`));
    });
    this.checks.add(check);
    void check.finally(() => this.checks.delete(check));
    return { pipeline, layout, id: this.compiled.size };
  }

  /**
   * The bind group layout of a kernel: params first, then its buffers and textures. Kernels with equal bindings share
   * one layout.
   */
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
}
