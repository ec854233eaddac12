/**
 * Capture and replay: a step with static shapes runs once, and its commands are kept in a flat list. A replay encodes
 * the list again. It builds no graph, allocates no buffers and creates no bind groups.
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
  /** Peak bytes of the captured work, without its outputs. All captures of a device share this memory. */
  readonly bytes: number;
}

/** The resources and host work that a capture collects while its body runs. */
class CaptureInProgress {
  /** Host work before each replay. */
  readonly actions: (() => void)[] = [];
  /** Tensors that outlive the body because the body keeps them. */
  readonly kept = new Set<Tensor>();
  /** Memory that was made outside the body and that the commands use. It is retained until `dispose`. */
  private readonly outside = new Set<Storage>();
  private readonly textures = new Set<OperandTexture>();
  private refusal: Error | null = null;

  constructor(
    readonly list: CommandList,
    readonly arena: BufferArena,
  ) {
    arena.open();
  }

  /** Records that a command uses a tensor or texture. */
  use(resource: Tensor | OperandTexture): void {
    if ('captures' in resource) {
      if (!this.textures.has(resource)) resource.captures++;
      this.textures.add(resource);
      return;
    }
    const { storage } = resource;
    if (!this.arena.owns(storage.buffer) && !this.outside.has(storage)) this.outside.add(storage.retain());
  }

  /** Records an action that cannot be captured. The capture then fails, even if the body catches the error. */
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

/** The parts of a capture. */
interface CaptureParts<T> {
  readonly progress: CaptureInProgress;
  /** What the body returned. */
  readonly outputs: T;
  /** The tensors in `outputs` that belong to the capture. */
  readonly own: readonly Tensor[];
}

/** A captured step; made by `Device.capture`. */
export class Capture<T> {
  readonly report: CaptureReport;
  /** What the body returned. Each replay overwrites the values of these tensors. */
  readonly outputs: T;
  private disposed = false;

  /** @param device tells whether the body of a capture is running */
  constructor(
    private readonly device: { readonly capturing: boolean },
    private readonly dispatcher: Pick<Dispatcher, 'replay' | 'flush'>,
    private readonly parts: CaptureParts<T>,
  ) {
    const { list, arena } = parts.progress;
    this.outputs = parts.outputs;
    this.report = {
      dispatches: list.dispatches,
      transfers: list.commands.length - list.dispatches,
      bytes: arena.peakBytes,
    };
  }

  /** Runs the captured work again, after all work so far, with the current values of its inputs. */
  replay(): void {
    if (this.disposed) throw new Error('replay: the capture was disposed');
    if (this.device.capturing) throw new Error('replay: a capture cannot be replayed while another is in progress');
    const { actions, list } = this.parts.progress;
    for (const action of actions) action();
    this.dispatcher.replay(list);
  }

  /** Frees the commands and outputs of the capture, and the memory that it retains. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.dispatcher.flush();
    for (const tensor of this.parts.own) tensor.dispose();
    this.parts.progress.dispose();
  }
}

/** The parts of a device that a Capturer needs. */
export interface CapturerSetup {
  readonly gpu: GPUDevice;
  readonly dispatcher: Dispatcher;
  readonly scopes: ScopeStack;
  readonly pool: BufferPool;
  readonly arena: BufferArena;
  /** Called when the destination of commands changes. The content of operand textures is not valid there. */
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
    return new Capture(this, dispatcher, { progress, outputs, own });
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

  /** Moves tensors from the arena to memory of their own. Tensors that share a buffer still share one afterwards. */
  private moveOut(tensors: ReadonlySet<Tensor>): void {
    const { dispatcher, pool, arena } = this.setup;
    const copyOf = ({ id, gpu, bytes }: PooledBuffer): Storage => {
      const copy = new Storage(pool.acquire(bytes), 0, bytes, (owned) => pool.release(owned));
      dispatcher.copy({ id, gpu, offset: 0, bytes }, copy.range, bytes);
      return copy;
    };
    const moved = new Map<PooledBuffer, Storage>();
    for (const tensor of tensors) {
      if (tensor.disposed || !arena.owns(tensor.storage.buffer)) continue;
      const { buffer, offset, bytes } = tensor.storage;
      const whole = moved.get(buffer)?.retain() ?? copyOf(buffer);
      moved.set(buffer, whole);
      tensor.moveTo(new Storage(whole.buffer, offset, bytes, () => whole.release()));
    }
  }
}
