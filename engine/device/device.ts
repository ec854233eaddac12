/** The device: adapter and limits, memory by scopes, dispatch, reading back, device loss. Runs in browsers and in Node (there `openDevice` of node.ts finds the adapter). */
import type { Grid, Kernel } from '../../kernels/kernel.ts';
import { SUBGROUP_TILES } from '../../kernels/matmul.ts';
import type { StagedPrecision } from '../../kernels/matmul-tiled.ts';
import {
  BufferArena,
  BufferPool,
  MemoryLedger,
  type MemoryReport as PoolReport,
  type PooledBuffer,
} from '../gpu/buffers.ts';
import { Capture, CaptureInProgress } from './capture.ts';
import { CommandList } from '../gpu/commands.ts';
import { checkOptions, deviceDescriptor, MAX_KEPT_OPERAND_BYTES, type DeviceOptions, type Settle } from './options.ts';
import { Dispatcher } from '../gpu/dispatcher.ts';
import type { Calibration, Profile, ProfileOptions } from '../profiling/profile.ts';
import { Profiler } from '../profiling/profiler.ts';
import { calibrate } from '../profiling/roofline.ts';
import { Storage } from '../core/storage.ts';
import {
  Tensor,
  tensorsIn,
  type DType,
  type TensorData,
  type TensorDevice,
  type TextureOperand,
} from '../core/tensor.ts';
import type { ForcedVariants } from '../core/variants.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import { checkShape, formatShape, shapeError, sizeOf, type Shape } from '../core/shape.ts';
import { TexturePool } from '../gpu/textures.ts';
import { Tuner } from '../tuning/tuner.ts';

/** A profile that is being taken. */
export interface RunningProfile {
  /** Begins a phase, a name in the trace, which lasts until the next one. */
  mark(phase: string): void;
  /** Waits for the device and ends the profile. */
  finish(): Promise<Profile>;
}

export interface DeviceInfo {
  readonly vendor: string;
  readonly architecture: string;
  readonly description: string;
  readonly features: readonly string[];
}

/** Beyond this the free buffers are destroyed when the outermost scope ends, unless the peak of live bytes is larger. */
const POOL_FLOOR_BYTES = 256 * 2 ** 20;
type Scope = Set<Tensor>;

export interface MemoryReport extends PoolReport {
  /** Bytes that captures have reserved together; part of `liveBytes`. */
  readonly capturedBytes: number;
}

export class Device implements TensorDevice {
  readonly info: DeviceInfo;
  readonly limits: GPUSupportedLimits;
  /** Lanes of a subgroup where kernels may rely on it (feature present, one size only), otherwise 0. */
  readonly subgroupSize: number;
  /** Whether subgroups are a processor's vectors (software adapters): there kernels of one subgroup a workgroup are the fastest, elsewhere tiles in workgroup memory. */
  readonly smallSubgroups: boolean;
  /** Whether the adapter can read operands of matrix products from storage textures. */
  readonly operandTextures: boolean;
  /** Whether operands of products may be rounded to f16 in inference (`DeviceOptions.halfPrecision`). */
  readonly halfPrecision: boolean;
  /** What they are rounded to there where nothing is tuned: f16 if allowed, unless kernels run on small subgroups. These are processors, and their f32 kernels stage nothing in workgroup memory. */
  readonly expectedPrecision: StagedPrecision;
  readonly force: ForcedVariants;
  /** Chooses among variants of kernels, by measuring where asked to. */
  readonly tuner: Tuner;
  /** Resolves with the reason when the device is lost (also after `destroy`). */
  readonly lost: Promise<string>;
  private readonly ledger = new MemoryLedger();
  private readonly pool: BufferPool;
  private readonly textures: TexturePool;
  /** What captures compute in. */
  private readonly arena: BufferArena;
  private readonly dispatcher: Dispatcher;
  private readonly settle: Settle;
  private readonly scopes: Scope[] = [];
  private noGradDepth = 0;
  private rehearsing = false;
  /** The capture whose body is running. */
  private activeCapture: CaptureInProgress | null = null;
  private lossReason: string | null = null;
  private profiler: Profiler | null = null;
  private profiling = false;
  private calibration: Calibration | null = null;

  /** Throws UnsupportedOptionError where an option needs a feature that the device lacks. */
  constructor(
    readonly gpu: GPUDevice,
    info: GPUAdapterInfo,
    options: DeviceOptions = {},
  ) {
    checkOptions(options, gpu.features, info);
    this.info = {
      vendor: info.vendor,
      architecture: info.architecture,
      description: info.description,
      features: [...gpu.features].sort(),
    };
    this.limits = gpu.limits;
    this.settle = options.settle ?? ((promise) => promise);
    const fixed = info.subgroupMinSize !== undefined && info.subgroupMinSize === info.subgroupMaxSize;
    this.subgroupSize =
      options.subgroups !== false && gpu.features.has('subgroups') && fixed ? info.subgroupMinSize : 0;
    this.smallSubgroups = SUBGROUP_TILES[this.subgroupSize] !== undefined;
    this.halfPrecision = options.halfPrecision ?? false;
    this.force = options.force ?? {};
    this.expectedPrecision = this.halfPrecision
      ? (this.force.precision ?? (this.smallSubgroups ? 'f32' : 'f16'))
      : 'f32';
    this.operandTextures = (
      options.languageFeatures ??
      globalThis.navigator?.gpu?.wgslLanguageFeatures ??
      new Set<string>()
    ).has('readonly_and_readwrite_storage_textures');
    this.dispatcher = new Dispatcher(gpu, {
      written: (buffer) => this.textures.written(buffer),
      replaying: () => this.textures.forget(),
    });
    const maxBytes = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize);
    const beforeDestroying = (): void => this.dispatcher.dropBindGroups();
    this.pool = new BufferPool(gpu, maxBytes, this.ledger, beforeDestroying);
    this.arena = new BufferArena(this.pool);
    // Commands that a profile holds back still need what they name.
    this.textures = new TexturePool(
      gpu,
      this.ledger,
      options.keptOperandBytes ?? MAX_KEPT_OPERAND_BYTES,
      beforeDestroying,
      () => !this.profiler?.holds,
    );
    this.lost = gpu.lost.then(({ reason, message }) => {
      this.lossReason = message || reason;
      if (reason !== 'destroyed') this.dispatcher.fail(new Error(`the GPU device was lost: ${this.lossReason}`));
      return this.lossReason;
    });
    this.tuner = new Tuner(this, this.dispatcher, info);
  }

  /** Requests a device of this adapter, with what the kernels can use. Throws UnsupportedOptionError where an option needs a feature that the adapter lacks. */
  static async fromAdapter(adapter: GPUAdapter, options: DeviceOptions = {}): Promise<Device> {
    checkOptions(options, adapter.features, adapter.info);
    return new Device(await adapter.requestDevice(deviceDescriptor(adapter, options)), adapter.info, options);
  }

  /** Opens the browser's adapter. Throws where there is none. In Node use `openDevice` of engine/node/index.ts. */
  static async open(options: DeviceOptions = {}): Promise<Device> {
    const adapter = await globalThis.navigator?.gpu?.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) throw new Error('no WebGPU adapter: this browser or machine offers none');
    return Device.fromAdapter(adapter, options);
  }

  // ------------------------------------------------------------------ tensors

  /** A tensor with undefined values: for ops that write every element. */
  empty(shape: Shape, dtype: DType = 'f32'): Tensor {
    checkShape('empty', shape);
    return this.track(new Tensor(this, shape, dtype, this.allocate(shape)));
  }

  private allocate(shape: Shape): Storage {
    const bytes = Math.max(16, sizeOf(shape) * 4);
    const memory = this.activeCapture?.arena ?? this.pool;
    return new Storage(memory.acquire(bytes), 0, bytes, (buffer: PooledBuffer) => {
      this.textures.written(buffer.id);
      memory.release(buffer);
    });
  }

  /**
   * Values that `compute` makes of another tensor's. Of a parameter's they are, in inference, computed when they are first used as anything but an operand that a texture
   * still holds (textures.ts): weights brought into another form are so once, not in every pass. `form` names the computation.
   */
  derived(from: Tensor, form: string, shape: Shape, compute: (into: Tensor) => void): Tensor {
    checkShape('derived', shape);
    const computed = (): Storage => {
      const storage = this.allocate(shape);
      compute(this.track(new Tensor(this, shape, 'f32', storage.retain())));
      return storage;
    };
    const { storage } = from;
    return this.track(
      new Tensor(
        this,
        shape,
        'f32',
        storage.lasting && this.textures.keeps ? { from: storage, form, compute: computed } : computed(),
      ),
    );
  }

  /** Copies host values to the device (in a capture: its constants, the same at each replay). `dtype` follows the array's type; plain numbers are f32. */
  tensor(data: TensorData | readonly number[], shape?: Shape): Tensor {
    const array =
      data instanceof Float32Array || data instanceof Uint32Array || data instanceof Int32Array
        ? data
        : new Float32Array(data);
    const dims = shape ?? [array.length];
    if (sizeOf(dims) !== array.length) shapeError('tensor', 'shape', `${array.length} elements`, dims);
    const dtype: DType = array instanceof Float32Array ? 'f32' : array instanceof Uint32Array ? 'u32' : 'i32';
    const tensor = this.empty(dims, dtype);
    this.dispatcher.write(tensor.storage.range, array.buffer, array.byteOffset, array.byteLength);
    return tensor;
  }

  zeros(shape: Shape, dtype: DType = 'f32'): Tensor {
    const tensor = this.empty(shape, dtype);
    this.dispatcher.clear(tensor.storage.range, tensor.byteLength);
    return tensor;
  }

  /** A tensor that gradients are computed for. It lives until disposed, whatever scope it is made in. */
  parameter(data: Float32Array<ArrayBuffer>, shape: Shape): Tensor {
    const tensor = this.keep(this.tensor(data, shape));
    tensor.requiresGrad = true;
    tensor.storage.lasting = true;
    return tensor;
  }

  /** Another handle to the same values with another shape and no history. */
  alias(tensor: Tensor, shape: Shape): Tensor {
    if (sizeOf(shape) !== tensor.size) shapeError('alias', 'shape', `${tensor.size} elements`, shape);
    return this.track(new Tensor(this, shape, tensor.dtype, tensor.storage.retain()));
  }

  /** A handle to a range of another tensor's memory; `offset` in elements, a multiple of 64. */
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

  /** Overwrites a tensor's values from the host (in a capture: with the same at each replay, unless in `eachTime`). */
  write(tensor: Tensor, data: TensorData): void {
    if (data.length !== tensor.size) shapeError('write', 'data', `${tensor.size} elements`, `${data.length}`);
    this.activeCapture?.use(tensor);
    this.dispatcher.write(tensor.storage.range, data.buffer, data.byteOffset, data.byteLength);
  }

  /** Copies values between tensors of equal size on the device. */
  copy(source: Tensor, destination: Tensor): void {
    if (source.size !== destination.size)
      shapeError('copy', 'destination', `${source.size} elements`, destination.shape);
    this.activeCapture?.use(source);
    this.activeCapture?.use(destination);
    this.dispatcher.copy(source.storage.range, destination.storage.range, source.byteLength);
  }

  // ------------------------------------------------------------------ scopes and recording

  /**
   * Runs `body` and frees the tensors made in it, except those it returns (directly, in arrays, maps or plain objects) or keeps.
   * What a recorded graph needs goes to the scope around it, and is freed when the outermost scope ends. `body` must not be asynchronous.
   */
  scope<T>(body: () => T): T {
    return this.runScope(body, 'hand over');
  }

  /** The scope of one op: as `scope`, but what a recorded graph needs survives also without a scope around it. */
  opScope<T>(body: () => T): T {
    return this.runScope(body, 'spare');
  }

  /** As `scope`, but a graph recorded inside ends with it, also with scopes around. */
  graphScope<T>(body: () => T): T {
    return this.runScope(body, 'free');
  }

  private runScope<T>(body: () => T, graph: 'hand over' | 'spare' | 'free'): T {
    const scope: Scope = new Set();
    this.profiler?.touch();
    this.scopes.push(scope);
    let result: T | undefined;
    try {
      result = body();
      return result;
    } finally {
      this.scopes.pop();
      const outer = this.scopes.at(-1);
      const returned = tensorsIn(result);
      for (const tensor of scope) {
        const survives = tensor.inGraph && (graph === 'spare' || (graph === 'hand over' && outer !== undefined));
        if (returned.has(tensor) || survives) outer?.add(tensor);
        else tensor.dispose();
      }
      if (!outer && graph !== 'spare' && !this.profiler?.holds)
        this.pool.trim(Math.max(POOL_FLOOR_BYTES, this.ledger.report().peakBytes * 2));
    }
  }

  /** Takes a tensor out of its scope: it lives until disposed. */
  keep<T extends Tensor>(tensor: T): T {
    for (const scope of this.scopes) scope.delete(tensor);
    this.activeCapture?.kept.add(tensor);
    return tensor;
  }

  /** Runs `body` without recording for gradients. */
  noGrad<T>(body: () => T): T {
    this.noGradDepth++;
    try {
      return body();
    } finally {
      this.noGradDepth--;
    }
  }

  /** As `noGrad`, for what will be computed again with recording: the same kernels run as then, so that the values are the same. */
  rehearse<T>(body: () => T): T {
    const before = this.rehearsing;
    this.rehearsing = true;
    try {
      return this.noGrad(body);
    } finally {
      this.rehearsing = before;
    }
  }

  /** Runs `body` with recording, also inside `noGrad`. */
  enableGrad<T>(body: () => T): T {
    const depth = this.noGradDepth;
    this.noGradDepth = 0;
    try {
      return body();
    } finally {
      this.noGradDepth = depth;
    }
  }

  get gradEnabled(): boolean {
    return this.noGradDepth === 0;
  }

  /**
   * Whether nothing is recorded and nothing will be: in training, a value rounded to the other side of a ReLU's kink changes gradients, so forward passes keep to the
   * precision of plain sums there.
   */
  get inference(): boolean {
    return this.noGradDepth > 0 && !this.rehearsing;
  }

  memory(): MemoryReport {
    return { ...this.ledger.report(), liveBuffers: this.pool.liveBuffers, capturedBytes: this.arena.bytes };
  }

  resetPeak(): void {
    this.ledger.resetPeak();
  }

  // ------------------------------------------------------------------ capture

  /**
   * Runs `body` once and records what it does on the device, so that `replay` can do it again at next to no cost on the host. Shapes, params and the order of
   * work are fixed with it; what varies between replays must be in tensors made outside, which the caller overwrites (`write`), or be host work in `eachTime`.
   * Gives the same bits as running `body` again. Values read to the host inside are refused.
   *
   * Memory: what `body` uses on the way is reserved for captures for as long as one lives, and shared by them. Tensors that it returns or keeps get memory of
   * their own, which each replay overwrites. Tensors from outside that it uses stay in memory until the capture is disposed, also if they are disposed before.
   */
  capture<T>(body: () => T): Capture<T> {
    if (this.activeCapture) throw new Error('capture: a capture is being recorded already');
    const progress = new CaptureInProgress(new CommandList(this.gpu), this.arena);
    let own: Tensor[] = [],
      outputs: T;
    try {
      this.setActiveCapture(progress);
      outputs = this.graphScope(() => {
        const result = body();
        const returned = [...tensorsIn(result)],
          scope = this.scopes.at(-1)!;
        own = returned.filter((tensor) => scope.has(tensor) || progress.kept.has(tensor));
        this.moveOut(new Set([...own, ...progress.kept]));
        return result;
      });
      progress.check();
    } catch (error) {
      progress.dispose();
      throw error;
    } finally {
      this.setActiveCapture(null);
    }
    for (const tensor of own) this.keep(tensor);
    progress.kept.clear();
    progress.list.seal();
    this.dispatcher.replay(progress.list);
    return new Capture(this, this.dispatcher, progress, outputs, own);
  }

  /** Host work that the work recorded next relies on, such as writing a learning rate to a tensor. Runs now and, inside a capture, before each replay again. */
  eachTime(action: () => void): void {
    const { activeCapture } = this;
    activeCapture?.actions.push(action);
    this.setActiveCapture(null);
    try {
      action();
    } finally {
      this.setActiveCapture(activeCapture);
    }
  }

  /** Whether the body of a capture is running. */
  get capturing(): boolean {
    return this.activeCapture !== null;
  }

  private setActiveCapture(capture: CaptureInProgress | null): void {
    this.textures.forget();
    this.activeCapture = capture;
    this.dispatcher.captureList = capture?.list ?? null;
  }

  /** Moves tensors from the captures' shared memory to memory of their own; those that share keep sharing. */
  private moveOut(tensors: ReadonlySet<Tensor>): void {
    const moved = new Map<PooledBuffer, Storage>();
    for (const tensor of tensors) {
      if (tensor.disposed || !this.arena.owns(tensor.storage.buffer)) continue;
      const { buffer, offset, bytes } = tensor.storage;
      let base = moved.get(buffer)?.retain();
      if (!base) {
        base = new Storage(this.pool.acquire(buffer.bytes), 0, buffer.bytes, (owned) => this.pool.release(owned));
        moved.set(buffer, base);
        this.dispatcher.copy(
          { id: buffer.id, gpu: buffer.gpu, offset: 0, bytes: buffer.bytes },
          base.range,
          buffer.bytes,
        );
      }
      const whole = base;
      tensor.moveTo(new Storage(base.buffer, offset, bytes, () => whole.release()));
    }
  }

  // ------------------------------------------------------------------ work

  /** Records one dispatch of a kernel. */
  run<P extends string, B extends string>(
    kernel: Kernel<P, B>,
    params: Readonly<Record<P, number>>,
    buffers: Readonly<Record<B, Tensor | OperandTexture>>,
    grid: Grid,
  ): void {
    if (kernel.subgroups && this.subgroupSize === 0)
      throw new Error(`kernel ${kernel.name} needs subgroups, which this device does not offer`);
    if (kernel.f16 && !this.halfPrecision)
      throw new Error(`kernel ${kernel.name} needs a device opened with halfPrecision`);
    if (this.activeCapture) for (const { name } of kernel.buffers) this.activeCapture.use(buffers[name]);
    this.dispatcher.run(kernel, params, buffers, grid);
  }

  /** Runs `body` with matrices copied into operand textures (see textures.ts). What `body` records is all that sees them. */
  withTextures<T>(operands: readonly TextureOperand[], body: (textures: readonly OperandTexture[]) => T): T {
    if (this.activeCapture) for (const { matrix } of operands) this.activeCapture.use(matrix);
    return this.textures.with(operands, this.dispatcher, body);
  }

  /** Runs `body`, from which parameters' copies in textures, and what is `derived` of them, stay for the next pass: the forward pass of an op in inference. Captures keep nothing. */
  keepingOperands<T>(body: () => T): T {
    return this.capturing ? body() : this.textures.keeping(body);
  }

  /** Operands are copied into textures again, even those that are still there: for who times what a first use costs. */
  forgetOperands(): void {
    this.textures.forget();
  }

  /** Dispatches encoded since the device was opened. */
  get dispatches(): number {
    return this.dispatcher.dispatches;
  }

  /** Submits what was recorded so far; the device starts, nothing waits. */
  flush(): void {
    if (!this.activeCapture) this.dispatcher.flush();
  }

  /** Waits until the device has done all that was recorded. */
  async synchronize(): Promise<void> {
    if (this.activeCapture) throw this.activeCapture.refuse('waiting for the device');
    this.dispatcher.flush();
    await this.wait(() => this.gpu.queue.onSubmittedWorkDone());
    await this.dispatcher.check();
  }

  /** The bytes of a tensor as they will be after all work recorded so far. */
  async readBytes(tensor: Tensor): Promise<ArrayBuffer> {
    if (this.activeCapture) throw this.activeCapture.refuse(`reading a tensor of shape ${formatShape(tensor.shape)}`);
    const bytes = tensor.byteLength;
    if (bytes === 0) return new ArrayBuffer(0);
    const staging = this.gpu.createBuffer({
      label: 'read',
      size: bytes,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    try {
      this.dispatcher.copy(tensor.storage.range, { id: 0, gpu: staging, offset: 0, bytes }, bytes);
      this.dispatcher.flush();
      await this.wait(() => staging.mapAsync(GPUMapMode.READ));
      await this.dispatcher.check();
      return staging.getMappedRange().slice(0);
    } finally {
      staging.destroy();
    }
  }

  private wait<T>(arrival: () => Promise<T>): Promise<T> {
    return this.profiler ? this.profiler.wait(() => this.settle(arrival())) : this.settle(arrival());
  }

  // ------------------------------------------------------------------ profiling

  /**
   * Profiles what `work` records, until the device has done it: each dispatch's kernel, bytes, FLOPs and device time, and what JavaScript did meanwhile.
   * The device's first profile measures its roofline before (less than a second). Results are the same bits as without. Throws where a profile is running.
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

  /** As `profile`, for work that is no single function: what is recorded from here until `finish`. Throws where a profile is running. */
  async startProfile({ detail = 'dispatches' }: ProfileOptions = {}): Promise<RunningProfile> {
    if (this.profiling) throw new Error('startProfile: a profile of this device is running already; finish it first');
    this.profiling = true;
    try {
      await this.synchronize();
      const { gpu, dispatcher } = this;
      const wait = (exactly: boolean): Promise<undefined> => this.settle(gpu.queue.onSubmittedWorkDone(), exactly);
      const calibration = (this.calibration ??= await calibrate({
        gpu,
        dispatcher,
        timestamps: gpu.features.has('timestamp-query'),
        wait,
      }));
      const profiler = new Profiler({ gpu, dispatcher, detail, timing: calibration.timing, wait });
      this.profiler = profiler;
      return {
        mark: (phase) => profiler.mark(phase),
        finish: async () => {
          try {
            const profile = await profiler.finish(this.info.description || this.info.vendor, calibration);
            await dispatcher.check();
            return profile;
          } finally {
            this.profiler = null;
            this.profiling = false;
          }
        },
      };
    } catch (error) {
      this.profiling = false;
      throw error;
    }
  }

  /** Frees everything. Node may linger without it. */
  destroy(): void {
    this.gpu.destroy();
  }

  private track(tensor: Tensor): Tensor {
    this.scopes.at(-1)?.add(tensor);
    return tensor;
  }
}
