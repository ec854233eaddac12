/**
 * Parameters in few flat buffers, so that an optimiser needs a handful of dispatches for all of them. Each parameter starts at a multiple of 64 elements
 * (the alignment of bindings); a buffer ends where the device's binding limit would be passed.
 */
import { addInPlace } from '../core/accumulate.ts';
import { formatShape, sameShape, ShapeError, type Shape } from '../core/shape.ts';
import type { Tensor, TensorDevice } from '../core/tensor.ts';

export interface NamedParameter {
  /** Unique among the parameters; names its state in checkpoints. */
  readonly name: string;
  readonly tensor: Tensor;
}

export interface FlatEntry extends NamedParameter {
  readonly index: number;
  /** Which flat buffer, and from which element on. */
  readonly chunk: number;
  readonly offset: number;
  /** Elements with padding. */
  readonly padded: number;
}

/** Neighbouring parameters of one flat buffer; elements. */
export interface FlatRun {
  readonly chunk: number;
  readonly offset: number;
  readonly count: number;
  readonly entries: readonly FlatEntry[];
}

/** Values with a shape, as files hold them. Shapes are the engine's own (convolution weights [kh, kw, C / groups, O]). */
export interface StoredValues {
  readonly shape: Shape;
  readonly data: Float32Array<ArrayBuffer>;
}

const ALIGNMENT = 64;

/** One tensor for each flat buffer: values, gradients, moments. */
export type FlatTensors = readonly Tensor[];

/** Parameters gathered in flat buffers with a gradient buffer for each: what AdamW and SGD work on. */
export class FlatParameters {
  readonly device: TensorDevice;
  readonly entries: readonly FlatEntry[];
  readonly gradients: FlatTensors;
  readonly values: FlatTensors;
  private readonly lengths: readonly number[];

  /**
   * Moves the parameters' memory into flat buffers: the tensors stay the same, with the same values.
   * @param owner         names the caller in errors
   * @param largestBuffer bytes that a flat buffer may have; default: what the device can bind
   */
  constructor(owner: string, parameters: readonly NamedParameter[], largestBuffer = Infinity) {
    if (parameters.length === 0) throw new Error(`${owner}: parameters must not be empty`);
    this.device = parameters[0].tensor.device;
    const names = new Set<string>(),
      tensors = new Set<Tensor>();
    for (const { name, tensor } of parameters) {
      if (names.has(name)) throw new Error(`${owner}: parameters must have names of their own, got ${name} twice`);
      if (tensors.has(tensor)) throw new Error(`${owner}: parameter ${name} is already there under another name`);
      if (tensor.dtype !== 'f32')
        throw new Error(`${owner}: parameter ${name} must be of dtype f32, got ${tensor.dtype}`);
      if (tensor.device !== this.device)
        throw new Error(`${owner}: parameter ${name} is on another device than ${parameters[0].name}`);
      names.add(name);
      tensors.add(tensor);
    }
    const { maxBufferSize, maxStorageBufferBindingSize } = this.device.limits;
    // A power of two: the buffer pool rounds other sizes up, perhaps beyond the limit. A larger parameter gets a buffer to itself.
    const most = 2 ** Math.floor(Math.log2(Math.min(maxBufferSize, maxStorageBufferBindingSize, largestBuffer) / 4));
    const lengths: number[] = [];
    this.entries = parameters.map(({ name, tensor }, index) => {
      const padded = Math.max(ALIGNMENT, Math.ceil(tensor.size / ALIGNMENT) * ALIGNMENT);
      if (lengths.length === 0 || lengths[lengths.length - 1] + padded > most) lengths.push(0);
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

  /** Zeroed flat buffers like those of the values; they live until disposed. */
  zeros(): FlatTensors {
    return this.lengths.map((length) => this.device.keep(this.device.zeros([length])));
  }

  /** The part of flat buffers that belongs to a parameter, in its shape. */
  view(flat: FlatTensors, { chunk, offset, tensor }: FlatEntry): Tensor {
    return this.device.view(flat[chunk], offset, tensor.shape);
  }

  /** Copies the gradient of each entry into its flat buffer, or adds it where `adds` says so. Padding stays zero. */
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

  /** Joins neighbours to runs as long as `key` gives the same for them. */
  runs(entries: readonly FlatEntry[], key: (entry: FlatEntry) => number): FlatRun[] {
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

  zeroGrad(): void {
    for (const { tensor } of this.entries) tensor.zeroGrad();
  }

  /** Copies flat buffers to the host, by parameter; their names get `prefix` and a dot before them. */
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

  /** Writes what `read` gave back into flat buffers; `values` were checked. */
  write(flat: FlatTensors, prefix: string, values: ReadonlyMap<string, StoredValues>): void {
    this.device.scope(() => {
      for (const entry of this.entries) {
        const stored = values.get(`${prefix}.${entry.name}`);
        if (stored) this.device.write(this.view(flat, entry), stored.data);
      }
    });
  }

  /** Throws unless `values` holds exactly `prefix.name` for each prefix and parameter, of the parameter's shape, and the `others`. */
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
      if (!stored) throw new ShapeError(`${owner}: ${name} is missing in the state`);
      if (!sameShape(stored.shape, shape))
        throw new ShapeError(`${owner}: ${name} must be ${formatShape(shape)}, got ${formatShape(stored.shape)}`);
    }
    for (const name of values.keys())
      if (!expected.has(name)) throw new ShapeError(`${owner}: ${name} in the state belongs to no parameter`);
  }

  /** Frees the flat gradients and this object's hold on the values; the parameters stay usable. */
  dispose(): void {
    for (const tensor of [...this.values, ...this.gradients]) tensor.dispose();
  }
}
