/**
 * PyTorch's globals that a pickle of weights may mention, and their descriptions of tensors.
 * Sources: torch/_utils.py and torch/serialization.py (1.13, and 2.x for _rebuild_tensor_v3).
 */
import type { ElementType } from './elements.ts';
import { integer, integers } from './pickle-arguments.ts';
import {
  describePickle,
  PickleGlobal,
  PickleObject,
  PickleTuple,
  type PickleCall,
  type PickleContext,
  type PickleValue,
} from './pickle-values.ts';

/**
 * torch.FloatStorage, ... `type` is null for untyped storages and for element types that the reader does not support.
 */
class StorageType extends PickleGlobal {
  constructor(
    name: string,
    readonly type: ElementType | null,
  ) {
    super(name, null);
  }
}

/** torch.float32, ... `type` is null for element types that the reader does not support. */
class TorchDtype extends PickleGlobal {
  constructor(
    name: string,
    readonly type: ElementType | null,
  ) {
    super(name, null);
  }
}

/** A storage that a persistent id names. Its bytes are elsewhere in the file. */
export class TorchStorage extends PickleObject {
  override readonly kind = 'torch storage';

  /** `count` and `offset` are in elements. */
  constructor(
    readonly key: string,
    readonly type: StorageType,
    readonly count: number,
    readonly offset = 0,
  ) {
    super();
  }
}

/** A tensor as a view of a storage. */
export class TorchTensor extends PickleObject {
  override readonly kind = 'torch.Tensor';

  constructor(
    readonly storage: TorchStorage,
    readonly type: ElementType | null,
    readonly typeName: string,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {
    super();
  }

  /** Ignores the Python attributes of a parameter. */
  override build(): void {}
}

const STORAGES: readonly (readonly [string, ElementType | null])[] = [
  ['Float', 'f32'],
  ['Half', 'f16'],
  ['BFloat16', 'bf16'],
  ['Double', 'f64'],
  ['Long', 'i64'],
  ['Int', 'i32'],
  ['Short', 'i16'],
  ['Char', 'i8'],
  ['Byte', 'u8'],
  ['Bool', 'bool'],
  ['Untyped', null],
  ['ComplexFloat', null],
  ['ComplexDouble', null],
];

const DTYPES: readonly (readonly [string, ElementType | null])[] = [
  ['float32', 'f32'],
  ['float', 'f32'],
  ['float16', 'f16'],
  ['half', 'f16'],
  ['bfloat16', 'bf16'],
  ['float64', 'f64'],
  ['double', 'f64'],
  ['int64', 'i64'],
  ['long', 'i64'],
  ['int32', 'i32'],
  ['int', 'i32'],
  ['int16', 'i16'],
  ['short', 'i16'],
  ['int8', 'i8'],
  ['uint8', 'u8'],
  ['bool', 'bool'],
  ['complex64', null],
  ['complex128', null],
  ['uint16', null],
  ['uint32', null],
  ['uint64', null],
  ['float8_e4m3fn', null],
  ['float8_e5m2', null],
];

/** _rebuild_tensor(storage, offset, shape, strides, ...) */
function rebuildTensor(args: readonly PickleValue[], context: PickleContext, dtype?: PickleValue): PickleValue {
  const [storage, offset, shape, strides] = args;
  if (!(storage instanceof TorchStorage))
    return context.fail(`pickle: a tensor: expected a storage, got ${describePickle(storage)}: corrupt`);
  const typed = dtype instanceof TorchDtype ? dtype : storage.type;
  const at = integer(offset, "a tensor's offset", context);
  return new TorchTensor(
    storage,
    typed.type,
    typed.name,
    at,
    integers(shape, "a tensor's shape", context),
    integers(strides, "a tensor's strides", context),
  );
}

const rebuildParameter: PickleCall = ([tensor], context) =>
  tensor instanceof TorchTensor
    ? tensor
    : context.fail(`pickle: a parameter: expected a tensor, got ${describePickle(tensor)}: corrupt`);

/** The globals by `module.name`. */
export function torchGlobals(): Map<string, PickleGlobal> {
  const globals = new Map<string, PickleGlobal>();
  for (const [name, type] of STORAGES) {
    for (const module of ['torch', 'torch.cuda', 'torch.storage'])
      globals.set(`${module}.${name}Storage`, new StorageType(`torch.${name}Storage`, type));
  }
  for (const [name, type] of DTYPES) globals.set(`torch.${name}`, new TorchDtype(`torch.${name}`, type));
  const calls: Readonly<Record<string, PickleCall>> = {
    'torch._utils._rebuild_tensor': (args, context) => rebuildTensor(args, context),
    'torch._utils._rebuild_tensor_v2': (args, context) => rebuildTensor(args, context),
    'torch._utils._rebuild_tensor_v3': (args, context) => rebuildTensor(args, context, args[6]),
    'torch._utils._rebuild_parameter': rebuildParameter,
    'torch._utils._rebuild_parameter_with_state': rebuildParameter,
    'torch.Size': ([sizes], context) =>
      sizes instanceof PickleTuple
        ? sizes
        : context.fail(`pickle: torch.Size: expected a tuple, got ${describePickle(sizes)}: corrupt`),
  };
  for (const [name, call] of Object.entries(calls)) globals.set(name, new PickleGlobal(name, call));
  return globals;
}

/** The storage of a persistent id ('storage', type, key, location, count[, view]). */
export function storageOf(id: PickleValue, fail: PickleContext['fail']): TorchStorage {
  const [tag, type, key, , count, view] = id instanceof PickleTuple ? id.items : [];
  if (
    tag !== 'storage' ||
    !(type instanceof StorageType) ||
    !(typeof key === 'string' || typeof key === 'number') ||
    typeof count !== 'number'
  ) {
    return fail(
      "pickle: a persistent id: expected ('storage', type, key, location, count), " +
        `got ${describePickle(id)}: corrupt`,
    );
  }
  const isCount = (n: PickleValue): n is number => typeof n === 'number' && Number.isSafeInteger(n) && n >= 0;
  if (!isCount(count)) fail(`pickle: a storage: expected a number of elements, got ${count}: corrupt`);
  // Before version 0.4, PyTorch shared storages through views (key, offset, count).
  if (view instanceof PickleTuple) {
    const [, offset, viewed] = view.items;
    if (!isCount(offset) || !isCount(viewed) || offset + viewed > count)
      return fail(`pickle: a view of a storage: expected a part of its ${count} elements, got another: corrupt`);
    return new TorchStorage(String(key), type, count, offset);
  }
  return new TorchStorage(String(key), type, count);
}
