/**
 * The allow-list of globals for pickles of weights. The unpickler refuses every other name.
 * Allowed globals build descriptions of tensors and plain data.
 */
import { numpyGlobals } from './numpy-globals.ts';
import { encodeLatin1 } from './pickle-arguments.ts';
import {
  describePickle,
  PickleDict,
  PickleGlobal,
  PickleList,
  PickleObject,
  PickleTuple,
  type PickleCall,
  type PickleValue,
} from './pickle-values.ts';
import { torchGlobals } from './torch-globals.ts';

/** A harmless object of which only the kind is kept: torch.device, argparse.Namespace, ... */
class Inert extends PickleObject {
  constructor(readonly kind: string) {
    super();
  }

  override build(): void {}
}

/** OrderedDict(), or OrderedDict(pairs) of Python 2. */
const orderedDict: PickleCall = ([pairs], context) => {
  const dict = new PickleDict();
  context.charge(32);
  if (pairs === undefined) return dict;
  if (!(pairs instanceof PickleList))
    return context.fail(`pickle: an OrderedDict: expected a list of pairs, got ${describePickle(pairs)}: corrupt`);
  context.charge(8 * pairs.items.length);
  for (const pair of pairs.items) {
    if (!(pair instanceof PickleTuple || pair instanceof PickleList) || pair.items.length !== 2) {
      return context.fail(`pickle: an OrderedDict's item: expected a pair, got ${describePickle(pair)}: corrupt`);
    }
    dict.entries.set(pair.items[0], pair.items[1]);
  }
  return dict;
};

/** A call that returns its argument if that is a container, otherwise a new container. */
const container =
  (make: () => PickleValue): PickleCall =>
  ([content], context) => {
    context.charge(32);
    return content instanceof PickleDict || content instanceof PickleList || content instanceof PickleTuple
      ? content
      : make();
  };

const encode: PickleCall = ([text, codec], context) =>
  codec === 'latin1' || codec === 'latin-1'
    ? encodeLatin1(text, context)
    : context.fail(`pickle: _codecs.encode: expected latin1, got ${describePickle(codec)}`);

const emptyBytes: PickleCall = ([content], context) => {
  if (content === undefined) return new Uint8Array(0);
  return content instanceof PickleList && content.items.length === 0
    ? new Uint8Array(0)
    : context.fail('pickle: bytes() with arguments is refused');
};

/** Python's own globals, and harmless ones, by `module.name`. */
function pythonGlobals(): Map<string, PickleGlobal> {
  const emptyDict = container(() => new PickleDict());
  const emptyList = container(() => new PickleList());
  const calls: [string, PickleCall | null][] = [
    ['torch.device', () => new Inert('torch.device')],
    ['argparse.Namespace', () => new Inert('argparse.Namespace')],
    ['collections.OrderedDict', orderedDict],
    ['collections.defaultdict', emptyDict],
    ['collections.Counter', emptyDict],
    ['_codecs.encode', encode],
    // Python 3 and Python 2.
    ...['builtins', '__builtin__'].flatMap((module): [string, PickleCall | null][] => [
      [`${module}.dict`, emptyDict],
      ...['list', 'set', 'frozenset', 'tuple'].map((name): [string, PickleCall] => [`${module}.${name}`, emptyList]),
      [`${module}.bytes`, emptyBytes],
      ...['int', 'float', 'bool', 'str'].map((name): [string, null] => [`${module}.${name}`, null]),
    ]),
  ];
  return new Map(calls.map(([name, call]) => [name, new PickleGlobal(name, call)]));
}

/** Every global that a pickle of weights may mention, by `module.name`. */
export const WEIGHT_GLOBALS: ReadonlyMap<string, PickleGlobal> = new Map([
  ...torchGlobals(),
  ...numpyGlobals(),
  ...pythonGlobals(),
]);
