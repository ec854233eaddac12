/**
 * Capture and replay: a step of static shapes is recorded once as a flat list of commands and then encoded again from it, without building a graph, allocating
 * buffers or creating bind groups. `Device.capture` records; `CaptureCache` decides what is worth it where shapes vary.
 */
import type { BufferArena } from '../gpu/buffers.ts';
import type { CommandList } from '../gpu/commands.ts';
import type { Device } from './device.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import { tensorsIn, type Storage, type Tensor } from '../core/tensor.ts';
import type { OperandTexture } from '../gpu/textures.ts';

export interface CaptureReport {
  readonly dispatches: number;
  /** Copies and clears. */
  readonly transfers: number;
  /** The most bytes that the captured work has in use at once, outputs not counted. Captures of a device share them. */
  readonly bytes: number;
}

/** What the device notes down while the body of a capture runs. */
export class CaptureInProgress {
  /** Host work before each replay. */
  readonly actions: (() => void)[] = [];
  /** Tensors that outlive the body because it kept them. */
  readonly kept = new Set<Tensor>();
  /** Memory from outside that the commands use: held for as long as they may be replayed. */
  readonly outside = new Set<Storage>();
  private readonly textures = new Set<OperandTexture>();
  private refusal: Error | null = null;

  constructor(
    readonly list: CommandList,
    readonly arena: BufferArena,
  ) {
    arena.open();
  }

  use(resource: Tensor | OperandTexture): void {
    if ('captures' in resource) {
      if (!this.textures.has(resource)) resource.captures++;
      this.textures.add(resource);
      return;
    }
    const { storage } = resource;
    if (!this.arena.owns(storage.buffer) && !this.outside.has(storage)) this.outside.add(storage.retain());
  }

  /** Notes what cannot be recorded: the capture fails, whatever becomes of the error returned. */
  refuse(what: string): Error {
    this.refusal ??= new Error(
      `capture: ${what} cannot be recorded, as its result would be the same at every replay; do it before or after`,
    );
    return this.refusal;
  }

  check(): void {
    if (this.refusal) throw this.refusal;
  }

  /** Frees all that it holds; its commands must have been submitted. */
  dispose(): void {
    this.list.destroy();
    for (const storage of this.outside) storage.release();
    this.outside.clear();
    for (const texture of this.textures) texture.captures--;
    this.textures.clear();
    this.arena.close();
  }
}

/** A recorded step; made by `Device.capture`. */
export class Capture<T> {
  readonly report: CaptureReport;
  private disposed = false;

  /**
   * @param outputs what the body returned: the values of the last run or replay, in the same tensors each time
   * @param own     the tensors among them that belong to the capture
   */
  constructor(
    private readonly device: Device,
    private readonly dispatcher: Dispatcher,
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

  /** Does the recorded work again, after all that was recorded before, from the values that its inputs have now. */
  replay(): void {
    if (this.disposed) throw new Error('replay: the capture was disposed');
    if (this.device.capturing) throw new Error('replay: a capture cannot be replayed while another is being recorded');
    for (const action of this.captured.actions) action();
    this.dispatcher.replay(this.captured.list);
  }

  /** Frees its commands, its outputs and its hold on memory. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.dispatcher.flush();
    for (const tensor of this.own) tensor.dispose();
    this.captured.dispose();
  }
}

export interface CaptureCacheOptions {
  /** Captures that live at once, 8 unless told: of more, the one not used for longest is dropped. */
  readonly capacity?: number;
  /** False: nothing is captured, every run is a plain one. */
  readonly enabled?: boolean;
}

/** Keys that are remembered as seen once. */
const MAX_SEEN = 4096;

/**
 * Steps whose shapes vary: each shape has a key. The first time a key is seen its step runs plainly, the second time it is captured, from then on replayed.
 * Either way it gives the same values.
 */
export class CaptureCache<I extends { dispose(): void }, T> {
  private readonly captured = new Map<string, { readonly inputs: I; readonly capture: Capture<T> }>();
  private readonly seen = new Set<string>();
  private plain: Tensor[] = [];
  private readonly capacity: number;
  private readonly enabled: boolean;

  /** @param body the step on inputs of one key; what `Device.capture` says of its body holds */
  constructor(
    private readonly device: Device,
    private readonly body: (inputs: I) => T,
    { capacity = 8, enabled = true }: CaptureCacheOptions = {},
  ) {
    if (!Number.isInteger(capacity) || capacity < 1)
      throw new RangeError(`CaptureCache: capacity must be an integer of at least 1, got ${capacity}`);
    this.capacity = capacity;
    this.enabled = enabled;
  }

  /**
   * Runs the step of a key.
   *
   * @param make  allocates the inputs: for a key without a capture
   * @param write gives them their values
   * @returns     what the body returned; the cache's own, valid until the next run
   */
  run(key: string, make: () => I, write: (inputs: I) => void): T {
    const known = this.captured.get(key);
    if (known) {
      this.captured.delete(key); // the last one in the map is the one used last
      this.captured.set(key, known);
      write(known.inputs);
      known.capture.replay();
      return known.capture.outputs;
    }
    this.freePlain();
    const worthwhile = this.enabled && this.seen.has(key);
    if (worthwhile && this.captured.size >= this.capacity) this.drop(this.captured.keys().next().value!);
    const inputs = make();
    let capture: Capture<T> | null = null;
    try {
      write(inputs);
      if (worthwhile) {
        capture = this.device.capture(() => this.body(inputs));
        this.captured.set(key, { inputs, capture });
        return capture.outputs;
      }
      if (this.seen.size >= MAX_SEEN) this.seen.clear();
      this.seen.add(key);
      const outputs = this.device.graphScope(() => this.body(inputs));
      this.plain = [...tensorsIn(outputs)].map((tensor) => this.device.keep(tensor));
      return outputs;
    } finally {
      if (!capture) inputs.dispose();
    }
  }

  /** The captures that live now, the one used last at the end. */
  get reports(): readonly CaptureReport[] {
    return [...this.captured.values()].map(({ capture }) => capture.report);
  }

  /** Frees everything. */
  dispose(): void {
    this.freePlain();
    for (const key of [...this.captured.keys()]) this.drop(key);
  }

  private freePlain(): void {
    for (const tensor of this.plain) tensor.dispose();
    this.plain = [];
  }

  private drop(key: string): void {
    const { inputs, capture } = this.captured.get(key)!;
    this.captured.delete(key);
    capture.dispose();
    inputs.dispose();
  }
}
