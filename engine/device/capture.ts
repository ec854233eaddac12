/**
 * Capture and replay: a step with static shapes runs once, and its commands are kept in a flat list. A replay encodes
 * the
 * list again, without building a graph, allocating buffers or creating bind groups.
 * `Device.capture` makes captures; `CaptureCache` decides which steps to capture if shapes vary.
 */
import { Storage } from '../core/storage.ts';
import { tensorsIn, type Tensor } from '../core/tensor.ts';
import type { BufferArena } from '../gpu/buffer-arena.ts';
import type { BufferPool, PooledBuffer } from '../gpu/buffers.ts';
import { CommandList } from '../gpu/commands.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import type { ScopeStack } from './scopes.ts';

export interface CaptureReport {
  readonly dispatches: number;
  /** Copies and clears. */
  readonly transfers: number;
  /** Maximum of bytes that the captured work uses at once, without outputs. Captures of a device share this memory. */
  readonly bytes: number;
}

/** What a capture collects while its body runs. */
export class CaptureInProgress {
  /** Host work before each replay. */
  readonly actions: (() => void)[] = [];
  /** Tensors that outlive the body because it keeps them. */
  readonly kept = new Set<Tensor>();
  /** Memory from outside that the commands use. It is retained as long as the commands can be replayed. */
  private readonly outside = new Set<Storage>();
  private readonly textures = new Set<OperandTexture>();
  private refusal: Error | null = null;

  constructor(
    readonly list: CommandList,
    readonly arena: BufferArena,
  ) {
    arena.open();
  }

  /** Notes that a command uses a tensor or texture. */
  use(resource: Tensor | OperandTexture): void {
    if ('captures' in resource) {
      if (!this.textures.has(resource)) resource.captures++;
      this.textures.add(resource);
      return;
    }
    const { storage } = resource;
    if (!this.arena.owns(storage.buffer) && !this.outside.has(storage)) this.outside.add(storage.retain());
  }

  /** Notes an action that cannot be captured. The capture then fails, even if the body catches the error. */
  refuse(action: string): Error {
    this.refusal ??= new Error(
      `capture: ${action} cannot be captured, as its result would be the same at every replay; do it before or after`,
    );
    return this.refusal;
  }

  /** Throws if an action was refused. */
  check(): void {
    if (this.refusal) throw this.refusal;
  }

  /** Frees everything that the capture holds. Its commands must have been submitted. */
  dispose(): void {
    this.list.destroy();
    for (const storage of this.outside) storage.release();
    this.outside.clear();
    for (const texture of this.textures) texture.captures--;
    this.textures.clear();
    this.arena.close();
  }
}

/** A captured step; made by `Device.capture`. */
export class Capture<T> {
  readonly report: CaptureReport;
  private disposed = false;

  /**
   * @param device  tells whether the body of a capture is running
   * @param outputs what the body returned; each replay overwrites the values of these tensors
   * @param own     the tensors in `outputs` that belong to the capture
   */
  constructor(
    private readonly device: { readonly capturing: boolean },
    private readonly dispatcher: Pick<Dispatcher, 'replay' | 'flush'>,
    private readonly captured: CaptureInProgress,
    readonly outputs: T,
    private readonly own: readonly Tensor[],
  ) {
    const { list, arena } = captured;
    this.report = {
      dispatches: list.dispatches,
      transfers: list.commands.length - list.dispatches,
      bytes: arena.peakBytes,
    };
  }

  /** Does the captured work again, after all work so far, with the current values of its inputs. */
  replay(): void {
    if (this.disposed) throw new Error('replay: the capture was disposed');
    if (this.device.capturing) throw new Error('replay: a capture cannot be replayed while another is in progress');
    for (const action of this.captured.actions) action();
    this.dispatcher.replay(this.captured.list);
  }

  /** Frees its commands, its outputs and the memory it retains. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.dispatcher.flush();
    for (const tensor of this.own) tensor.dispose();
    this.captured.dispose();
  }
}

/** What making a capture needs of a device. */
export interface CapturerSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  readonly scopes: ScopeStack;
  readonly pool: BufferPool;
  readonly arena: BufferArena;
  /** Called when the destination of commands changes: what operand textures hold is not valid there. */
  readonly onSwitch: () => void;
}

/** Makes the captures of a device. */
export class Capturer {
  /** The capture whose body is running. */
  active: CaptureInProgress | null = null;

  constructor(private readonly setup: CapturerSetup) {}

  get capturing(): boolean {
    return this.active !== null;
  }

  /** See `Device.capture`. */
  capture<T>(body: () => T): Capture<T> {
    if (this.active) throw new Error('capture: another capture is in progress already');
    const { gpu, dispatcher, scopes, arena } = this.setup;
    const progress = new CaptureInProgress(new CommandList(gpu), arena);
    let own: Tensor[] = [];
    let outputs: T;
    try {
      this.switchTo(progress);
      outputs = scopes.run(() => {
        const result = body();
        own = [...tensorsIn(result)].filter((tensor) => scopes.has(tensor) || progress.kept.has(tensor));
        this.moveOut(new Set([...own, ...progress.kept]));
        return result;
      }, 'free');
      progress.check();
    } catch (error) {
      progress.dispose();
      throw error;
    } finally {
      this.switchTo(null);
    }
    for (const tensor of own) scopes.remove(tensor);
    progress.kept.clear();
    progress.list.seal();
    dispatcher.replay(progress.list);
    return new Capture(this, dispatcher, progress, outputs, own);
  }

  /** See `TensorDevice.eachTime`. */
  eachTime(action: () => void): void {
    const { active } = this;
    active?.actions.push(action);
    this.switchTo(null);
    try {
      action();
    } finally {
      this.switchTo(active);
    }
  }

  private switchTo(capture: CaptureInProgress | null): void {
    this.setup.onSwitch();
    this.active = capture;
    this.setup.dispatcher.captureList = capture?.list ?? null;
  }

  /** Moves tensors from the memory that captures share to their own memory. Tensors that share memory still do. */
  private moveOut(tensors: ReadonlySet<Tensor>): void {
    const { dispatcher, pool, arena } = this.setup;
    const moved = new Map<PooledBuffer, Storage>();
    for (const tensor of tensors) {
      if (tensor.disposed || !arena.owns(tensor.storage.buffer)) continue;
      const { buffer, offset, bytes } = tensor.storage;
      let base = moved.get(buffer)?.retain();
      if (!base) {
        base = new Storage(pool.acquire(buffer.bytes), 0, buffer.bytes, (owned) => pool.release(owned));
        moved.set(buffer, base);
        dispatcher.copy({ id: buffer.id, gpu: buffer.gpu, offset: 0, bytes: buffer.bytes }, base.range, buffer.bytes);
      }
      const whole = base;
      tensor.moveTo(new Storage(base.buffer, offset, bytes, () => whole.release()));
    }
  }
}
