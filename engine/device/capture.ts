/**
 * Capture and replay: a step of static shapes is recorded once as a flat list of commands and then encoded again from it, without building a graph, allocating
 * buffers or creating bind groups. `Device.capture` records; `CaptureCache` decides what is worth it where shapes vary.
 */
import type { BufferArena } from '../gpu/buffers.ts';
import type { CommandList } from '../gpu/commands.ts';
import type { Dispatcher } from '../gpu/dispatcher.ts';
import type { OperandTexture } from '../gpu/resources.ts';
import type { Storage } from '../core/storage.ts';
import type { Tensor } from '../core/tensor.ts';

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
