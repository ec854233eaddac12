/** The values that a pickle can hold, and their names in messages. */
import type { Bytes } from './byte-reader.ts';
import type { Fail } from './errors.ts';

/** A text that is too long for a name. It stays in UTF-8. In protocol 2, Python 3 writes an array's bytes this way. */
export class LongText {
  constructor(readonly utf8: Bytes) {}
}

export class PickleTuple {
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A list or a set. */
export class PickleList {
  readonly items: PickleValue[] = [];
}

/** A dict, an OrderedDict, ... Keys are compared as in JavaScript's Map, and never become properties. */
export class PickleDict {
  readonly entries = new Map<PickleValue, PickleValue>();
}

/** An object that an allowed global builds. */
export abstract class PickleObject {
  /** Name for messages, e.g. `numpy.ndarray`. */
  abstract readonly kind: string;

  /** Sets the state of the object (opcode BUILD). Objects without state refuse it. */
  build(_state: PickleValue, context: PickleContext): void {
    context.fail(`pickle: ${this.kind} takes no state (BUILD)`);
  }
}

/** Makes the result of a call of a global. */
export type PickleCall = (args: readonly PickleValue[], context: PickleContext) => PickleValue;

/** An allowed class or function. */
export class PickleGlobal {
  /** @param call makes the result of REDUCE and NEWOBJ; null for a global that must not be called */
  constructor(
    readonly name: string,
    readonly call: PickleCall | null,
  ) {}
}

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Bytes
  | LongText
  | PickleTuple
  | PickleList
  | PickleDict
  | PickleObject
  | PickleGlobal;

/** The functions that globals may use while they build. */
export interface PickleContext {
  readonly fail: Fail;
  /** Subtracts `count` copied or created items or bytes from a budget. Throws if the budget is used up. */
  charge(count: number): void;
}

/** A value in a few words, for messages. */
export function describePickle(value: PickleValue | undefined): string {
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'string') return 'a text';
  if (typeof value === 'boolean') return 'a boolean';
  if (typeof value === 'number' || typeof value === 'bigint') return 'a number';
  if (value instanceof Uint8Array || value instanceof LongText) return 'bytes';
  if (value instanceof PickleTuple) return `a tuple of ${value.items.length}`;
  if (value instanceof PickleList) return `a list of ${value.items.length}`;
  if (value instanceof PickleDict) return `a dict of ${value.entries.size}`;
  return value instanceof PickleGlobal ? `the global ${value.name}` : `a ${value.kind}`;
}

/** Maximum number of characters that a message shows of a name. */
const MAX_PRINTED = 120;

/** A name from a file in printable characters, so that a message cannot disturb a terminal. */
export function printable(text: string): string {
  const clean = text.replace(/[^\x20-\x7e]/g, '?');
  return clean.length > MAX_PRINTED ? `${clean.slice(0, MAX_PRINTED)}...` : clean;
}
