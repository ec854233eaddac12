/** A cache of captures, for steps whose shapes vary. It captures shapes that repeat, and keeps those used last. */
import { tensorsIn, type Tensor } from '../core/tensor.ts';
import type { Capture, CaptureReport } from './capture.ts';

/** The part of a device that the cache uses. */
export interface CapturingDevice {
  capture<T>(body: () => T): Capture<T>;
  graphScope<T>(body: () => T): T;
  keep<T extends Tensor>(tensor: T): T;
}

export interface CaptureCacheOptions {
  /** Maximum number of captures, default 8. A full cache drops the capture that was unused for longest. */
  readonly capacity?: number;
  /** False: every step runs without capture. Default true. */
  readonly enabled?: boolean;
}

/** Maximum number of keys remembered as seen once. */
const MAX_SEEN = 4096;

/**
 * Runs steps whose shapes vary; each shape has a key. The first step of a key runs without capture. The second step is
 * captured. Later steps are replays of the capture. The values are the same in all cases.
 */
export class CaptureCache<I extends { dispose(): void }, T> {
  private readonly captured = new Map<string, { readonly inputs: I; readonly capture: Capture<T> }>();
  private readonly seen = new Set<string>();
  /** Outputs of the last step that ran without capture. */
  private uncaptured: Tensor[] = [];
  private readonly capacity: number;
  private readonly enabled: boolean;

  /** @param body the step on the inputs of a key; it follows the rules of `Device.capture` */
  constructor(
    private readonly device: CapturingDevice,
    private readonly body: (inputs: I) => T,
    { capacity = 8, enabled = true }: CaptureCacheOptions = {},
  ) {
    if (!Number.isInteger(capacity) || capacity < 1)
      throw new RangeError(`CaptureCache: capacity: expected an integer of at least 1, got ${capacity}`);
    this.capacity = capacity;
    this.enabled = enabled;
  }

  /**
   * Runs the step of a key.
   *
   * @param make  allocates the inputs; called for a key without a capture
   * @param write writes the values of the inputs
   * @returns     what the body returned; it belongs to the cache and is valid until the next run
   */
  run(key: string, make: () => I, write: (inputs: I) => void): T {
    const known = this.captured.get(key);
    if (known) {
      this.captured.delete(key); // keeps the map in order of use, last used last
      this.captured.set(key, known);
      write(known.inputs);
      known.capture.replay();
      return known.capture.outputs;
    }
    this.freeUncaptured();
    const repeats = this.enabled && this.seen.has(key);
    if (repeats && this.captured.size >= this.capacity) this.drop(this.captured.keys().next().value!);
    const inputs = make();
    let capture: Capture<T> | null = null;
    try {
      write(inputs);
      if (repeats) {
        capture = this.device.capture(() => this.body(inputs));
        this.captured.set(key, { inputs, capture });
        return capture.outputs;
      }
      if (this.seen.size >= MAX_SEEN) this.seen.clear();
      this.seen.add(key);
      const outputs = this.device.graphScope(() => this.body(inputs));
      this.uncaptured = [...tensorsIn(outputs)].map((tensor) => this.device.keep(tensor));
      return outputs;
    } finally {
      if (!capture) inputs.dispose();
    }
  }

  /** Reports of the current captures, in order of use, last used last. */
  get reports(): readonly CaptureReport[] {
    return [...this.captured.values()].map(({ capture }) => capture.report);
  }

  /** Frees all captures and the outputs of the last run. */
  dispose(): void {
    this.freeUncaptured();
    for (const key of [...this.captured.keys()]) this.drop(key);
  }

  private freeUncaptured(): void {
    for (const tensor of this.uncaptured) tensor.dispose();
    this.uncaptured = [];
  }

  private drop(key: string): void {
    const { inputs, capture } = this.captured.get(key)!;
    this.captured.delete(key);
    capture.dispose();
    inputs.dispose();
  }
}
