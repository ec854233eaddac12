/**
 * Modules: a tree of named parameters and buffers. In files, names and shapes are PyTorch's. In memory, layouts are
 * those of the kernels.
 */
import type { Device } from '../device/device.ts';
import { ShapeError, formatShape, sameShape, sizeOf, type Shape } from '../core/shape.ts';
import type { Tensor } from '../core/tensor.ts';

/**
 * Layout of a tensor. `same`: as in PyTorch. `conv`: [kh, kw, C / groups, O] in memory, [O, C / groups, kh, kw] in
 * PyTorch.
 */
export type WeightLayout = 'same' | 'conv';

export interface NamedTensor {
  /** Path with dots, e.g. `head.head_series.0.linear1.weight`. */
  readonly name: string;
  readonly tensor: Tensor;
  readonly layout: WeightLayout;
  /** Buffers, such as running statistics, are saved but never trained. */
  readonly kind: 'parameter' | 'buffer';
}

/** Values of a tensor in a file, in PyTorch's shape and order. */
export interface StoredTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

/** A node of the tree. Subclasses add parameters, buffers and children in their constructors. */
export abstract class Module {
  private readonly children = new Map<string, Module>();
  private readonly own = new Map<string, NamedTensor>();

  constructor(readonly device: Device) {}

  /** Adds a module under a name. With an empty name its tensors are named like this module's own. */
  protected child<M extends Module>(name: string, module: M): M {
    this.children.set(name, module);
    return module;
  }

  /** Adds a list of modules, named `name.0`, `name.1`, ... */
  protected childList<M extends Module>(name: string, modules: readonly M[]): readonly M[] {
    modules.forEach((module, i) => this.children.set(`${name}.${i}`, module));
    return modules;
  }

  /** Adds a trainable tensor with these initial values. */
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

  /** Adds a tensor that is saved but not trained. */
  protected buffer(name: string, shape: Shape, data: Float32Array<ArrayBuffer>): Tensor {
    const tensor = this.device.keep(this.device.tensor(data, shape));
    this.own.set(name, { name, tensor, layout: 'same', kind: 'buffer' });
    return tensor;
  }

  /** All parameters and buffers of this module and its children, in order of construction. */
  *tensors(prefix = ''): Generator<NamedTensor> {
    for (const entry of this.own.values()) yield { ...entry, name: prefix + entry.name };
    for (const [name, module] of this.children) yield* module.tensors(name === '' ? prefix : `${prefix}${name}.`);
  }

  /** The parameters that an optimizer trains: all that are not frozen. */
  trainable(): NamedTensor[] {
    return [...this.tensors()].filter(({ kind, tensor }) => kind === 'parameter' && tensor.requiresGrad);
  }

  /** Freezes all parameters of this module and its children: they get no gradient. */
  freeze(): void {
    for (const { kind, tensor } of this.tensors()) if (kind === 'parameter') tensor.requiresGrad = false;
  }

  /** Called after values were loaded. Subclasses override it to discard results computed from the old values. */
  protected loaded(): void {}

  private notifyLoaded(): void {
    this.loaded();
    for (const module of this.children.values()) module.notifyLoaded();
  }

  /** Reads the values of all tensors, for a file. */
  async save(): Promise<Map<string, StoredTensor>> {
    const out = new Map<string, StoredTensor>();
    for (const entry of this.tensors())
      out.set(entry.name, toStored(entry, (await entry.tensor.read()) as Float32Array<ArrayBuffer>));
    return out;
  }

  /**
   * Overwrites the tensors named in `values`.
   * @returns names of tensors that `values` lacks (`missing`), and names in `values` that this module lacks
   *   (`unexpected`)
   * @throws ShapeError with the tensor's name if a shape differs
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
          `${entry.name}: expected shape ${formatShape(expected)} (of the model), got ${formatShape(value.shape)}`,
        );
      this.device.write(entry.tensor, fromStored(entry, value.data));
    }
    this.notifyLoaded();
    return { missing, unexpected: [...values.keys()].filter((name) => !known.has(name)) };
  }

  /** Frees all tensors of this module and its children. */
  dispose(): void {
    for (const { tensor } of this.tensors()) {
      tensor.zeroGrad();
      tensor.dispose();
    }
    this.notifyLoaded();
  }
}

/** The shape of a tensor in files. */
export function storedShape({ tensor, layout }: Pick<NamedTensor, 'tensor' | 'layout'>): readonly number[] {
  if (layout === 'same') return tensor.shape;
  const [kh, kw, c, o] = tensor.shape;
  return [o, c, kh, kw];
}

/** Converts values in memory to PyTorch's order. */
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

/** Converts values in PyTorch's order to the order in memory. */
function fromStored(
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
