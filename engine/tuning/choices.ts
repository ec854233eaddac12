/**
 * Tuned choices: the fastest variant of each shape class on one adapter and driver, as JSON. Hashes of the kernels show
 * whether a choice is outdated.
 */
import type { Kernel } from '../../kernels/kernel.ts';
import { isObject, shown } from '../core/json.ts';

/** A measured choice. Times are in milliseconds per run. */
export interface TunedChoice {
  readonly variant: string;
  /** Hash of the class's kernels. */
  readonly kernels: string;
  readonly ms: number;
  /** The cost model's choice and its time. The time is null if that variant failed. */
  readonly expected: string;
  readonly expectedMs: number | null;
}

/** The choices for one adapter and driver, as JSON. */
export interface TunedChoices {
  readonly version: typeof TUNING_VERSION;
  readonly adapter: string;
  readonly driver: string;
  readonly subgroupSize: number;
  /** By shape class. */
  readonly choices: Readonly<Record<string, TunedChoice>>;
}

/** Version of the format. */
export const TUNING_VERSION = 1;

/** Choices in a wrong format. The message names source, field, what was expected, and what was found. */
export class TuningError extends Error {
  override readonly name = 'TuningError';
}

/** Checks choices of unknown type. Throws TuningError naming `source` and the field. */
export function parseTunedChoices(json: unknown, source: string): TunedChoices {
  const wrong = (field: string, expected: string, got: unknown): TuningError =>
    new TuningError(`${source}: ${field}: expected ${expected}, got ${shown(got)}`);
  const text = (value: unknown, field: string): string => {
    if (typeof value !== 'string') throw wrong(field, 'text', value);
    return value;
  };
  const time = (value: unknown, field: string): number => {
    if (typeof value !== 'number' || !(value >= 0)) throw wrong(field, 'a number of milliseconds', value);
    return value;
  };
  if (!isObject(json)) throw wrong('tuned choices', 'an object', json);
  const { version, adapter, driver, subgroupSize, choices } = json;
  if (version !== TUNING_VERSION) throw wrong('version', String(TUNING_VERSION), version);
  if (!isObject(choices)) throw wrong('choices', 'an object', choices);
  const parsed = Object.entries(choices).map(([shapeClass, value]): [string, TunedChoice] => {
    const at = `choices[${JSON.stringify(shapeClass)}]`;
    if (!isObject(value)) throw wrong(at, 'an object', value);
    return [
      shapeClass,
      {
        variant: text(value.variant, `${at}.variant`),
        kernels: text(value.kernels, `${at}.kernels`),
        ms: time(value.ms, `${at}.ms`),
        expected: text(value.expected, `${at}.expected`),
        expectedMs: value.expectedMs === null ? null : time(value.expectedMs, `${at}.expectedMs`),
      },
    ];
  });
  const size = (value: unknown): number => {
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw wrong('subgroupSize', 'an integer >= 0', value);
    return value;
  };
  return {
    version: TUNING_VERSION,
    adapter: text(adapter, 'adapter'),
    driver: text(driver, 'driver'),
    subgroupSize: size(subgroupSize),
    choices: Object.fromEntries(parsed),
  };
}

/** A hash of a sequence of texts: 16 hexadecimal digits, from two hashes of 32 bits similar to FNV. */
function hash(texts: Iterable<string>): string {
  let a = 0x811c9dc5;
  let b = 0x9747b28c;
  for (const text of texts) {
    for (let i = 0; i <= text.length; i++) {
      const code = i < text.length ? text.charCodeAt(i) : 0x1ffff;
      a = Math.imul(a ^ code, 0x01000193);
      b = Math.imul(b ^ code, 0x5bd1e995) ^ (b >>> 15);
    }
  }
  return [a, b].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
}

const sourceHashes = new WeakMap<Kernel, string>();

function sourceHash(kernel: Kernel): string {
  let known = sourceHashes.get(kernel);
  if (known === undefined) {
    known = hash([kernel.source]);
    sourceHashes.set(kernel, known);
  }
  return known;
}

/**
 * A hash of the sources of kernels, each source counted once. A choice is valid as long as its kernels have this
 * hash.
 */
export const kernelsHash = (kernels: readonly Kernel[]): string => hash(new Set(kernels.map(sourceHash)));

/** A short name of a set of choices: equal sets give equal bits. `none` for the empty set. */
export function fingerprintOf(choices: ReadonlyMap<string, TunedChoice>): string {
  if (choices.size === 0) return 'none';
  return hash([...choices].map(([shapeClass, { variant }]) => `${shapeClass}: ${variant}`).sort()).slice(0, 12);
}
