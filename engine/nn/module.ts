/** Modules: named parameters and buffers in a tree. Names and shapes in files are PyTorch's; memory layouts are the kernels'. */
import type { Device } from '../device/device.ts';
import { ShapeError, formatShape, sameShape, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

/** How a tensor lies in memory against how PyTorch stores it: `conv` is [kh, kw, C/groups, O] here and [O, C/groups, kh, kw] there. */
export type WeightLayout = 'same' | 'conv';

export interface NamedTensor {
  /** Dotted, e.g. `head.head_series.0.linear1.weight`. */
  readonly name: string;
  readonly tensor: Tensor;
  readonly layout: WeightLayout;
  /** Buffers (running statistics) are saved but never trained. */
  readonly kind: 'parameter' | 'buffer';
}

/** A tensor as files hold it: PyTorch's shape and order. */
export interface StoredTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

export abstract class Module {
  private readonly children = new Map<string, Module>();
  private readonly own = new Map<string, NamedTensor>();

  constructor(readonly device: Device) {}

  /** Adds a module under a name; the empty name puts its tensors beside this module's own. */
  protected child<M extends Module>(name: string, module: M): M {
    this.children.set(name, module);
    return module;
  }

  /** A list of modules, named `name.0`, `name.1`, ... */
  protected childList<M extends Module>(name: string, modules: readonly M[]): readonly M[] {
    modules.forEach((module, i) => this.children.set(`${name}.${i}`, module));
    return modules;
  }

  protected parameter(
    name: string,
    shape: Shape,
    data: Float32Array<ArrayBuffer>,
    layout: WeightLayout = 'same',
  ): Tensor {
    const tensor = this.device.parameter(data, shape);
    this.own.set(name, { name, tensor, layout, kind: 'parameter' });
    return tensor;
  }

  protected buffer(name: string, shape: Shape, data: Float32Array<ArrayBuffer>): Tensor {
    const tensor = this.device.keep(this.device.tensor(data, shape));
    this.own.set(name, { name, tensor, layout: 'same', kind: 'buffer' });
    return tensor;
  }

  /** All parameters and buffers below this module, in the order of construction. */
  *tensors(prefix = ''): Generator<NamedTensor> {
    for (const entry of this.own.values()) yield { ...entry, name: prefix + entry.name };
    for (const [name, module] of this.children) yield* module.tensors(name === '' ? prefix : `${prefix}${name}.`);
  }

  /** What an optimiser trains: parameters that are not frozen. */
  trainable(): NamedTensor[] {
    return [...this.tensors()].filter(({ kind, tensor }) => kind === 'parameter' && tensor.requiresGrad);
  }

  /** Stops gradients for every parameter below. */
  freeze(): void {
    for (const { kind, tensor } of this.tensors()) if (kind === 'parameter') tensor.requiresGrad = false;
  }

  /** Called after values were loaded; modules that cache something computed from them drop it. */
  protected loaded(): void {}

  private notifyLoaded(): void {
    this.loaded();
    for (const module of this.children.values()) module.notifyLoaded();
  }

  /** Values of all tensors, for a file. */
  async save(): Promise<Map<string, StoredTensor>> {
    const out = new Map<string, StoredTensor>();
    for (const entry of this.tensors())
      out.set(entry.name, toStored(entry, (await entry.tensor.read()) as Float32Array<ArrayBuffer>));
    return out;
  }

  /**
   * Overwrites the tensors that `values` names.
   * @returns the names that are missing in `values`, and those in `values` that this module does not have
   * @throws ShapeError naming the tensor where a shape differs
   */
  load(values: ReadonlyMap<string, StoredTensor>): { missing: string[]; unexpected: string[] } {
    const missing: string[] = [];
    const known = new Set<string>();
    for (const entry of this.tensors()) {
      known.add(entry.name);
      const value = values.get(entry.name);
      if (!value) {
        missing.push(entry.name);
        continue;
      }
      const expected = storedShape(entry);
      if (!sameShape(expected, value.shape))
        throw new ShapeError(
          `${entry.name}: the model has shape ${formatShape(expected)}, the file ${formatShape(value.shape)}`,
        );
      this.device.write(entry.tensor, fromStored(entry, value.data));
    }
    this.notifyLoaded();
    return { missing, unexpected: [...values.keys()].filter((name) => !known.has(name)) };
  }

  /** Frees all tensors below. */
  dispose(): void {
    for (const { tensor } of this.tensors()) {
      tensor.zeroGrad();
      tensor.dispose();
    }
    this.notifyLoaded();
  }
}

/** The shape under which a tensor is stored. */
export function storedShape({ tensor, layout }: Pick<NamedTensor, 'tensor' | 'layout'>): readonly number[] {
  if (layout === 'same') return tensor.shape;
  const [kh, kw, c, o] = tensor.shape;
  return [o, c, kh, kw];
}

/** Our values in PyTorch's order. */
export function toStored(entry: Pick<NamedTensor, 'tensor' | 'layout'>, data: Float32Array<ArrayBuffer>): StoredTensor {
  const shape = storedShape(entry);
  if (entry.layout === 'same') return { shape, data };
  const [o, c, kh, kw] = shape;
  const out = new Float32Array(sizeOf(shape));
  for (let tap = 0; tap < kh * kw; tap++) {
    for (let j = 0; j < c; j++)
      for (let i = 0; i < o; i++) out[(i * c + j) * kh * kw + tap] = data[(tap * c + j) * o + i];
  }
  return { shape, data: out };
}

/** PyTorch's values in our order. */
export function fromStored(
  entry: Pick<NamedTensor, 'tensor' | 'layout'>,
  data: Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  if (entry.layout === 'same') return data;
  const [o, c, kh, kw] = storedShape(entry);
  const out = new Float32Array(data.length);
  for (let tap = 0; tap < kh * kw; tap++) {
    for (let j = 0; j < c; j++)
      for (let i = 0; i < o; i++) out[(tap * c + j) * o + i] = data[(i * c + j) * kh * kw + tap];
  }
  return out;
}
