/**
 * Parameters in a few flat buffers, so that an optimizer needs few dispatches. Each parameter starts at a multiple of
 * 64 elements, the alignment of bindings. Buffers are no larger than the device's binding limit.
 */
import { addInPlace } from '../core/accumulate.ts';
import { formatShape, sameShape, ShapeError, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';

export interface NamedParameter {
  /** Unique among the parameters. It names the parameter's state in checkpoints. */
  readonly name: string;
  readonly tensor: Tensor;
}

/** A parameter's place in the flat buffers. Offsets and sizes count elements. */
export interface FlatEntry extends NamedParameter {
  readonly index: number;
  /** Index of the flat buffer. */
  readonly chunk: number;
  /** First element in the flat buffer. */
  readonly offset: number;
  /** Number of elements with padding. */
  readonly padded: number;
}

/** Neighboring parameters of one flat buffer. Offset and count are in elements. */
export interface FlatRun {
  readonly chunk: number;
  readonly offset: number;
  readonly count: number;
  readonly entries: readonly FlatEntry[];
}

/** Values with a shape, for files. The shape is that in memory (convolution weights [kh, kw, C / groups, O]). */
export interface StoredValues {
  readonly shape: Shape;
  readonly data: Float32Array<ArrayBuffer>;
}

/** Alignment of parameters in elements; 256 bytes. */
const ALIGNMENT = 64;

/** One tensor per flat buffer: values, gradients or moments. */
export type FlatTensors = readonly Tensor[];

/** Parameters in flat buffers, with a gradient buffer for each flat buffer. AdamW and SGD update them. */
export class FlatParameters {
  readonly device: TensorDevice;
  readonly entries: readonly FlatEntry[];
  readonly gradients: FlatTensors;
  readonly values: FlatTensors;
  private readonly lengths: readonly number[];

  /**
   * Moves the parameters' memory into flat buffers. The tensors stay the same objects, with the same values.
   * @param owner         the caller's name in errors
   * @param largestBuffer maximum size of a flat buffer in bytes; default: the device's limits
   */
  constructor(owner: string, parameters: readonly NamedParameter[], largestBuffer = Infinity) {
    if (parameters.length === 0) throw new Error(`${owner}: parameters: expected at least one, got none`);
    this.device = parameters[0].tensor.device;
    const names = new Set<string>();
    const tensors = new Set<Tensor>();
    for (const { name, tensor } of parameters) {
      if (names.has(name)) throw new Error(`${owner}: parameters: expected distinct names, got ${name} twice`);
      if (tensors.has(tensor))
        throw new Error(`${owner}: parameter ${name}: expected a tensor of its own, got one with another name`);
      if (tensor.dtype !== 'f32')
        throw new Error(`${owner}: parameter ${name}: expected dtype f32, got ${tensor.dtype}`);
      if (tensor.device !== this.device)
        throw new Error(
          `${owner}: parameter ${name}: expected the device of ${parameters[0].name}, got another device`,
        );
      names.add(name);
      tensors.add(tensor);
    }
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits;
    // The length is a power of two, because the buffer pool rounds other sizes up, perhaps beyond the limit.
    // A parameter larger than this gets a buffer to itself.
    const maxBytes = Math.min(maxBufferSize, maxStorageBufferBindingSize, largestBuffer);
    const maxLength = 2 ** Math.floor(Math.log2(maxBytes / 4));
    const lengths: number[] = [];
    this.entries = parameters.map(({ name, tensor }, index) => {
      const padded = Math.max(ALIGNMENT, Math.ceil(tensor.size / ALIGNMENT) * ALIGNMENT);
      if (lengths.length === 0 || lengths[lengths.length - 1] + padded > maxLength) lengths.push(0);
      const chunk = lengths.length - 1;
      const offset = lengths[chunk];
      lengths[chunk] += padded;
      return { name, tensor, index, chunk, offset, padded };
    });
    this.lengths = lengths;
    this.values = this.zeros();
    this.gradients = this.zeros();
    this.device.scope(() => {
      for (const entry of this.entries) {
        const view = this.view(this.values, entry);
        this.device.copy(entry.tensor, view);
        entry.tensor.moveTo(view.storage.retain());
      }
    });
  }

  /** New flat buffers of zeros, of the same sizes as the values. They live until they are disposed. */
  zeros(): FlatTensors {
    return this.lengths.map((length) => this.device.keep(this.device.zeros([length])));
  }

  /** The part of `flat` that belongs to a parameter, in the parameter's shape. */
  view(flat: FlatTensors, { chunk, offset, tensor }: FlatEntry): Tensor {
    return this.device.view(flat[chunk], offset, tensor.shape);
  }

  /**
   * Copies the gradient of each entry into its flat buffer, or adds it if `adds` returns true. Padding stays zero.
   */
  gatherGradients(entries: readonly FlatEntry[], adds: (entry: FlatEntry) => boolean = () => false): void {
    this.device.scope(() => {
      for (const entry of entries) {
        const { grad } = entry.tensor;
        if (!grad) continue;
        const view = this.view(this.gradients, entry);
        if (adds(entry)) addInPlace(view, grad);
        else this.device.copy(grad, view);
      }
    });
  }

  /** Joins neighboring entries with equal `key` into runs. */
  runs(entries: readonly FlatEntry[], key: (entry: FlatEntry) => number | string): FlatRun[] {
    const runs: { chunk: number; offset: number; count: number; entries: FlatEntry[] }[] = [];
    for (const entry of entries) {
      const last = runs.at(-1);
      if (
        last &&
        last.chunk === entry.chunk &&
        last.offset + last.count === entry.offset &&
        key(last.entries[0]) === key(entry)
      ) {
        last.count += entry.padded;
        last.entries.push(entry);
      } else runs.push({ chunk: entry.chunk, offset: entry.offset, count: entry.padded, entries: [entry] });
    }
    return runs;
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    for (const { tensor } of this.entries) tensor.zeroGrad();
  }

  /** Copies flat buffers to the host: the values of each parameter, under the name `prefix.name`. */
  async read(flat: FlatTensors, prefix: string): Promise<Map<string, StoredValues>> {
    const chunks: Float32Array[] = [];
    for (const tensor of flat) chunks.push((await tensor.read()) as Float32Array);
    return new Map(
      this.entries.map(({ name, tensor, chunk, offset }) => [
        `${prefix}.${name}`,
        { shape: tensor.shape, data: new Float32Array(chunks[chunk].subarray(offset, offset + tensor.size)) },
      ]),
    );
  }

  /** Writes values as `read` returns them into flat buffers. The caller has checked them. */
  write(flat: FlatTensors, prefix: string, values: ReadonlyMap<string, StoredValues>): void {
    this.device.scope(() => {
      for (const entry of this.entries) {
        const stored = values.get(`${prefix}.${entry.name}`);
        if (stored) this.device.write(this.view(flat, entry), stored.data);
      }
    });
  }

  /**
   * Throws ShapeError unless `values` has exactly these names and shapes: `prefix.name` for each prefix and parameter,
   * and the `others`.
   */
  check(
    owner: string,
    prefixes: readonly string[],
    values: ReadonlyMap<string, StoredValues>,
    others: Readonly<Record<string, Shape>>,
  ): void {
    const expected = new Map<string, Shape>(Object.entries(others));
    for (const prefix of prefixes)
      for (const { name, tensor } of this.entries) expected.set(`${prefix}.${name}`, tensor.shape);
    for (const [name, shape] of expected) {
      const stored = values.get(name);
      if (!stored) throw new ShapeError(`${owner}: ${name}: expected a value in the state, got none`);
      if (!sameShape(stored.shape, shape))
        throw new ShapeError(`${owner}: ${name}: expected ${formatShape(shape)}, got ${formatShape(stored.shape)}`);
    }
    for (const name of values.keys())
      if (!expected.has(name)) throw new ShapeError(`${owner}: ${name}: expected the name of a parameter`);
  }

  /** Frees the flat gradients and this object's references to the values. The parameters stay usable. */
  dispose(): void {
    for (const tensor of [...this.values, ...this.gradients]) tensor.dispose();
  }
}
