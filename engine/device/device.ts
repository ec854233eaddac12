/**
 * The device: adapter and limits, memory, scopes, captures, profiles, and the dispatch of kernels.
 * It runs in browsers and in Node, where `openDevice` of engine/node/index.ts finds the adapter.
 */
import type { Grid, Kernel } from '../../kernels/kernel.ts';
import type { StagedPrecision } from '../../kernels/matmul-tiled.ts';
import { checkShape, formatShape, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import { Storage } from '../core/storage.ts';
import { Tensor, type DType, type TensorData, type TensorDevice, type TextureOperand } from '../core/tensor.ts';
import type { ForcedVariants } from '../core/variants.ts';
import { BufferArena } from '../gpu/buffer-arena.ts';
import { BufferPool } from '../gpu/buffers.ts';
import { Dispatcher } from '../gpu/dispatcher.ts';
import { MemoryLedger, type MemoryReport as PoolReport } from '../gpu/memory-ledger.ts';
import { OutOfMemoryError, saysOutOfMemory } from '../gpu/out-of-memory.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import { TexturePool } from '../gpu/textures.ts';
import type { Profile, ProfileOptions } from '../profiling/profile.ts';
import { Tuner } from '../tuning/tuner.ts';
import { capabilitiesOf } from './capabilities.ts';
import { Capturer, type Capture } from './capture.ts';
import { DeviceProfiler, type RunningProfile } from './device-profiler.ts';
import { GradMode } from './grad-mode.ts';
import { checkOptions, DEFAULT_KEPT_OPERAND_BYTES, deviceDescriptor, type DeviceOptions } from './options.ts';
import { ScopeStack } from './scopes.ts';

export interface DeviceInfo {
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  readonly features: readonly string[];
}

export interface MemoryReport extends PoolReport {
  /** Bytes that all captures have reserved together; part of `liveBytes`. */
  readonly capturedBytes: number;
}

/**
 * When an outermost scope ends, the free buffers are destroyed if they take more bytes than this, and more than twice
 * the peak of live bytes.
 */
const MIN_POOL_BYTES = 256 * 2 ** 20;

/** A WebGPU device with its memory; `TensorDevice` documents the methods that tensors and ops use. */
export class Device implements TensorDevice {
  readonly info: DeviceInfo;
  readonly limits: GPUSupportedLimits;
  readonly subgroupSize: number;
  readonly smallSubgroups: boolean;
  readonly operandTextures: boolean;
  readonly halfPrecision: boolean;
  readonly expectedPrecision: StagedPrecision;
  readonly force: ForcedVariants;
  /** Chooses among variants of kernels, and measures them on request. */
  readonly tuner: Tuner;
  /** Resolves with the reason when the device is lost, also after `destroy`. */
  readonly lost: Promise<string>;
  private readonly ledger = new MemoryLedger();
  private readonly pool: BufferPool;
  private readonly textures: TexturePool;
  /** Memory of intermediate tensors in captures. */
  private readonly arena: BufferArena;
  private readonly dispatcher: Dispatcher;
  private readonly scopes: ScopeStack;
  private readonly grad = new GradMode();
  private readonly capturer: Capturer;
  private readonly profiler: DeviceProfiler;

  /** Throws UnsupportedOptionError if an option needs a feature that the device lacks. */
  constructor(
    readonly gpu: GPUDevice,
    info: GPUAdapterInfo,
    options: DeviceOptions = {},
  ) {
    checkOptions(options, gpu.features, info);
    const { vendor, architecture, description } = info;
    this.info = { vendor, architecture, description, features: [...gpu.features].sort() };
    this.limits = gpu.limits;
    const capabilities = capabilitiesOf(gpu, info, options);
    this.subgroupSize = capabilities.subgroupSize;
    this.smallSubgroups = capabilities.smallSubgroups;
    this.operandTextures = capabilities.operandTextures;
    this.halfPrecision = capabilities.halfPrecision;
    this.expectedPrecision = capabilities.expectedPrecision;
    this.force = capabilities.force;
    this.dispatcher = new Dispatcher(gpu, {
      written: (buffer) => this.textures.written(buffer),
      replaying: () => this.textures.forget(),
    });
    this.profiler = new DeviceProfiler({
      gpu,
      dispatcher: this.dispatcher,
      adapter: description || vendor,
      settle: options.settle ?? ((promise) => promise),
      synchronize: () => this.synchronize(),
    });
    const maxBytes = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize);
    const beforeDestroying = (): void => this.dispatcher.dropBindGroups();
    this.pool = new BufferPool(gpu, maxBytes, this.ledger, beforeDestroying);
    this.arena = new BufferArena(this.pool);
    const maxKeptBytes = options.keptOperandBytes ?? DEFAULT_KEPT_OPERAND_BYTES;
    const mayDestroy = (): boolean => !this.profiler.holdsCommands;
    this.textures = new TexturePool(gpu, this.ledger, { maxKeptBytes, onDestroy: beforeDestroying, mayDestroy });
    this.scopes = new ScopeStack(
      () => this.profiler.touch(),
      () => this.trimPool(),
    );
    const { dispatcher, scopes, pool, arena } = this;
    const onSwitch = (): void => this.textures.forget();
    this.capturer = new Capturer({ gpu, dispatcher, scopes, pool, arena, onSwitch });
    this.lost = gpu.lost.then(({ reason, message }) => {
      const lossReason = message || reason;
      const lost = `the GPU device was lost: ${lossReason}`;
      if (reason !== 'destroyed')
        this.dispatcher.fail(saysOutOfMemory(lost) ? new OutOfMemoryError(lost) : new Error(lost));
      return lossReason;
    });
    this.tuner = new Tuner(this, this.dispatcher, info);
  }

  /**
   * Requests a device from an adapter, with the features that kernels can use.
   * Throws UnsupportedOptionError if an option needs a feature that the adapter lacks.
   */
  static async fromAdapter(adapter: GPUAdapter, options: DeviceOptions = {}): Promise<Device> {
    checkOptions(options, adapter.features, adapter.info);
    return new Device(await adapter.requestDevice(deviceDescriptor(adapter, options)), adapter.info, options);
  }

  /** Opens the browser's adapter; throws if there is none. In Node use `openDevice` of engine/node/index.ts. */
  static async open(options: DeviceOptions = {}): Promise<Device> {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) throw new Error('no WebGPU adapter: this browser or machine offers none');
    return Device.fromAdapter(adapter, options);
  }

  // ------------------------------------------------------------------ tensors

  empty(shape: Shape, dtype: DType = 'f32'): Tensor {
    checkShape('empty', shape);
    return this.track(new Tensor(this, shape, dtype, this.allocate(shape)));
  }

  derived(from: Tensor, form: string, shape: Shape, compute: (into: Tensor) => void): Tensor {
    checkShape('derived', shape);
    const computed = (): Storage => {
      const storage = this.allocate(shape);
      compute(this.track(new Tensor(this, shape, 'f32', storage.retain())));
      return storage;
    };
    const { storage } = from;
    const lazy = storage.persistent && this.textures.keepsParameters;
    const values = lazy ? { from: storage, form, compute: computed } : computed();
    return this.track(new Tensor(this, shape, 'f32', values));
  }

  tensor(data: TensorData | readonly number[], shape?: Shape): Tensor {
    const array =
      data instanceof Float32Array || data instanceof Uint32Array || data instanceof Int32Array
        ? data
        : new Float32Array(data);
    const fullShape = shape ?? [array.length];
    if (sizeOf(fullShape) !== array.length) shapeError('tensor', 'shape', `${array.length} elements`, fullShape);
    const dtype: DType = array instanceof Float32Array ? 'f32' : array instanceof Uint32Array ? 'u32' : 'i32';
    const tensor = this.empty(fullShape, dtype);
    this.dispatcher.write(tensor.storage.range, array.buffer, array.byteOffset, array.byteLength);
    return tensor;
  }

  zeros(shape: Shape, dtype: DType = 'f32'): Tensor {
    const tensor = this.empty(shape, dtype);
    this.dispatcher.clear(tensor.storage.range, tensor.byteLength);
    return tensor;
  }

  parameter(data: Float32Array<ArrayBuffer>, shape: Shape): Tensor {
    const tensor = this.keep(this.tensor(data, shape));
    tensor.requiresGrad = true;
    tensor.storage.persistent = true;
    return tensor;
  }

  alias(tensor: Tensor, shape: Shape): Tensor {
    if (sizeOf(shape) !== tensor.size) shapeError('alias', 'shape', `${tensor.size} elements`, shape);
    return this.track(new Tensor(this, shape, tensor.dtype, tensor.storage.retain()));
  }

  view(tensor: Tensor, offset: number, shape: Shape): Tensor {
    if (offset % 64 !== 0 || offset + sizeOf(shape) > tensor.size)
      shapeError(
        'view',
        'offset',
        `a multiple of 64 within ${tensor.size} elements`,
        `${offset} for ${formatShape(shape)}`,
      );
    const base = tensor.storage.retain();
    const storage = new Storage(base.buffer, base.offset + offset * 4, sizeOf(shape) * 4, () => base.release());
    return this.track(new Tensor(this, shape, tensor.dtype, storage));
  }

  write(tensor: Tensor, data: TensorData): void {
    if (data.length !== tensor.size) shapeError('write', 'data', `${tensor.size} elements`, `${data.length}`);
    this.capturer.active?.use(tensor);
    this.dispatcher.write(tensor.storage.range, data.buffer, data.byteOffset, data.byteLength);
  }

  copy(source: Tensor, destination: Tensor): void {
    if (source.size !== destination.size)
      shapeError('copy', 'destination', `${source.size} elements`, destination.shape);
    this.capturer.active?.use(source);
    this.capturer.active?.use(destination);
    this.dispatcher.copy(source.storage.range, destination.storage.range, source.byteLength);
  }

  // ------------------------------------------------------------------ scopes and memory

  scope<T>(body: () => T): T {
    return this.scopes.run(body, 'hand over');
  }

  opScope<T>(body: () => T): T {
    return this.scopes.run(body, 'spare');
  }

  graphScope<T>(body: () => T): T {
    return this.scopes.run(body, 'free');
  }

  keep<T extends Tensor>(tensor: T): T {
    this.scopes.remove(tensor);
    this.capturer.active?.kept.add(tensor);
    return tensor;
  }

  memory(): MemoryReport {
    return { ...this.ledger.report(), liveBuffers: this.pool.liveBuffers, capturedBytes: this.arena.bytes };
  }

  /** Sets the peak of live bytes to the current number of live bytes. */
  resetPeak(): void {
    this.ledger.resetPeak();
  }

  // ------------------------------------------------------------------ gradients

  get gradEnabled(): boolean {
    return this.grad.enabled;
  }

  get inference(): boolean {
    return this.grad.inference;
  }

  noGrad<T>(body: () => T): T {
    return this.grad.disable(body);
  }

  enableGrad<T>(body: () => T): T {
    return this.grad.enable(body);
  }

  rehearse<T>(body: () => T): T {
    return this.grad.rehearse(body);
  }

  // ------------------------------------------------------------------ capture

  /**
   * Runs `body` once and captures its commands, so that `replay` can repeat them at almost no cost on the host.
   * A replay gives the same bits as running `body` again. The capture fixes shapes, params and the order of work.
   * Inputs that change between replays must be tensors made outside of `body`. The caller overwrites them (`write`), or
   * host work in `eachTime` does. Reading values to the host inside `body` throws.
   *
   * Memory: intermediate tensors use reserved memory. All captures share it, and it is freed with the last capture.
   * Tensors that `body` returns or keeps have their own memory, which each replay overwrites. The memory of tensors
   * from outside is freed with the capture at the earliest, even if these tensors are disposed before.
   */
  capture<T>(body: () => T): Capture<T> {
    return this.capturer.capture(body);
  }

  eachTime(action: () => void): void {
    this.capturer.eachTime(action);
  }

  /** Whether the body of a capture is running. */
  get capturing(): boolean {
    return this.capturer.capturing;
  }

  // ------------------------------------------------------------------ work

  run<P extends string, B extends string>(
    kernel: Kernel<P, B>,
    params: Readonly<Record<P, number>>,
    buffers: Readonly<Record<B, Tensor | OperandTexture>>,
    grid: Grid,
  ): void {
    if (kernel.subgroups && this.subgroupSize === 0)
      throw new Error(`kernel ${kernel.name}: expected a device with subgroups, got one without`);
    if (kernel.f16 && !this.halfPrecision)
      throw new Error(`kernel ${kernel.name}: expected a device opened with halfPrecision, got one without`);
    const { active } = this.capturer;
    if (active) for (const { name } of kernel.buffers) active.use(buffers[name]);
    this.dispatcher.run(kernel, params, buffers, grid);
  }

  withTextures<T>(operands: readonly TextureOperand[], body: (textures: readonly OperandTexture[]) => T): T {
    const { active } = this.capturer;
    if (active) for (const { matrix } of operands) active.use(matrix);
    return this.textures.with(operands, this.dispatcher, body);
  }

  keepingOperands<T>(body: () => T): T {
    return this.capturing ? body() : this.textures.keeping(body);
  }

  /** Forgets which operands are in textures, so that they are copied again. The tuner measures first uses this way. */
  forgetOperands(): void {
    this.textures.forget();
  }

  /** Number of dispatches since the device was opened. */
  get dispatches(): number {
    return this.dispatcher.dispatches;
  }

  /** Number of compute pipelines compiled since the device was opened. */
  get pipelines(): number {
    return this.dispatcher.pipelines.count;
  }

  /**
   * Calls `listener` after each further compute pipeline was created, with their number. The host waits meanwhile.
   * @returns ends the calls. There is one listener at a time: a new one replaces the one before
   */
  watchPipelines(listener: (count: number) => void): () => void {
    const { pipelines } = this.dispatcher;
    pipelines.onCreated = listener;
    return () => {
      if (pipelines.onCreated === listener) pipelines.onCreated = null;
    };
  }

  /** Submits all work so far, without waiting for the device. In a capture it does nothing. */
  flush(): void {
    if (!this.capturing) this.dispatcher.flush();
  }

  /** Waits until the device has done all work so far. Throws the first error that the device reported. */
  async synchronize(): Promise<void> {
    if (this.capturer.active) throw this.capturer.active.refuse('waiting for the device');
    this.dispatcher.flush();
    await this.profiler.wait(() => this.gpu.queue.onSubmittedWorkDone());
    await this.dispatcher.check();
  }

  async readBytes(tensor: Tensor): Promise<ArrayBuffer> {
    const { active } = this.capturer;
    if (active) throw active.refuse(`reading a tensor of shape ${formatShape(tensor.shape)}`);
    const bytes = tensor.byteLength;
    if (bytes === 0) return new ArrayBuffer(0);
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const staging = this.gpu.createBuffer({ label: 'read', size: bytes, usage });
    try {
      this.dispatcher.copy(tensor.storage.range, { id: 0, gpu: staging, offset: 0, bytes }, bytes);
      this.dispatcher.flush();
      try {
        await this.profiler.wait(() => staging.mapAsync(GPUMapMode.READ));
      } catch (error) {
        // The first error says more than a failed mapping, which follows from it.
        await this.dispatcher.check();
        throw error;
      }
      await this.dispatcher.check();
      return staging.getMappedRange().slice(0);
    } finally {
      staging.destroy();
    }
  }

  // ------------------------------------------------------------------ profiling

  /**
   * Profiles `work` until the device has done it. The profile has kernel, bytes, FLOPs and device time of each
   * dispatch, and the time that JavaScript spent encoding, submitting and waiting. Before its first profile, a device
   * measures its roofline in less than a second. Results are the same bits as without a profile. Throws if another
   * profile is running.
   */
  async profile(work: () => unknown, options: ProfileOptions = {}): Promise<Profile> {
    const running = await this.startProfile(options);
    try {
      await work();
    } catch (error) {
      await running.finish();
      throw error;
    }
    return running.finish();
  }

  /**
   * As `profile`, for work that is not a single function: the profile lasts until `finish`. Throws if another profile
   * is running.
   */
  async startProfile(options: ProfileOptions = {}): Promise<RunningProfile> {
    return this.profiler.start(options);
  }

  /** Frees the device. Without it, Node may not exit. */
  destroy(): void {
    this.gpu.destroy();
  }

  private allocate(shape: Shape): Storage {
    const bytes = Math.max(16, sizeOf(shape) * 4);
    const memory = this.capturer.active?.arena ?? this.pool;
    return new Storage(memory.acquire(bytes), 0, bytes, (buffer) => {
      this.textures.written(buffer.id);
      memory.release(buffer);
    });
  }

  private track(tensor: Tensor): Tensor {
    this.scopes.add(tensor);
    return tensor;
  }

  private trimPool(): void {
    if (this.profiler.holdsCommands) return;
    this.pool.trim(Math.max(MIN_POOL_BYTES, this.ledger.report().peakBytes * 2));
  }
}
