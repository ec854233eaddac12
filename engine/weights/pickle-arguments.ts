/** Checks of the arguments and states that a pickle gives to allowed globals. */
import type { Bytes } from './byte-reader.ts';
import {
  describePickle,
  LongText,
  PickleList,
  PickleTuple,
  type PickleContext,
  type PickleValue,
} from './pickle-values.ts';

/** A list of non-negative integers: a shape, strides, ... `what` names it in errors. */
export function integers(value: PickleValue | undefined, what: string, context: PickleContext): number[] {
  if (!(value instanceof PickleTuple) && !(value instanceof PickleList)) {
    return context.fail(`pickle: ${what}: expected a tuple, got ${describePickle(value)}: corrupt`);
  }
  // A pickle can reuse a shape from the memo any number of times, so each use is charged.
  context.charge(value.items.length);
  return value.items.map((item) => integer(item, what, context));
}

export function integer(value: PickleValue | undefined, what: string, context: PickleContext): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  const got = typeof value === 'number' ? value : describePickle(value);
  return context.fail(`pickle: ${what}: expected integers >= 0, got ${got}: corrupt`);
}

/** The bytes of a bytes object, or of a text whose characters are bytes. */
export function bytesOf(value: PickleValue | undefined, context: PickleContext): Bytes {
  if (value instanceof Uint8Array) return value;
  if (typeof value !== 'string') return context.fail(`pickle: expected bytes, got ${describePickle(value)}: corrupt`);
  return encodeLatin1(value, context);
}

const NOT_BYTES = 'pickle: a text: expected characters up to 255, got one beyond: corrupt';

/** The bytes of a text whose characters are bytes. */
export function encodeLatin1(text: PickleValue | undefined, context: PickleContext): Bytes {
  if (typeof text === 'string') {
    context.charge(text.length);
    return Uint8Array.from(text, (character) => {
      const code = character.codePointAt(0)!;
      return code < 256 ? code : context.fail(NOT_BYTES);
    });
  }
  if (!(text instanceof LongText))
    return context.fail(`pickle: _codecs.encode: expected a text, got ${describePickle(text)}`);
  const { utf8 } = text;
  context.charge(utf8.length);
  const out = new Uint8Array(utf8.length);
  let length = 0;
  for (let i = 0; i < utf8.length; i++) {
    const byte = utf8[i];
    if (byte < 0x80) out[length++] = byte;
    // Characters 128..255 take two bytes in UTF-8: 110000vv 10vvvvvv.
    else if ((byte & 0xfc) === 0xc0 && i + 1 < utf8.length && (utf8[i + 1] & 0xc0) === 0x80)
      out[length++] = ((byte & 3) << 6) | (utf8[++i] & 63);
    else context.fail(NOT_BYTES);
  }
  return out.subarray(0, length);
}
