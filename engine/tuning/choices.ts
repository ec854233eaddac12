/**
 * Tuned choices: which variant of each shape class is fastest on one adapter and driver, as JSON; and the hashes that
 * say when they are out of date.
 */
import type { Kernel } from '../../kernels/kernel.ts';
import { isObject } from '../core/json.ts';

/** A measured choice. Times in milliseconds of one run. */
export interface TunedChoice {
  readonly variant: string;
  /** Hash of the class's kernels. */
  readonly kernels: string;
  readonly ms: number;
  /** The cost model's choice, and its time; null where it is not a valid one. */
  readonly expected: string;
  readonly expectedMs: number | null;
}

/** The choices of one adapter and driver, as JSON. */
export interface TunedChoices {
  readonly version: typeof TUNING_VERSION;
  readonly adapter: string;
  readonly driver: string;
  readonly subgroupSize: number;
  /** By shape class. */
  readonly choices: Readonly<Record<string, TunedChoice>>;
}

/** Of the format. */
export const TUNING_VERSION = 1;

/** Choices that cannot be understood: the message names source, field, what was expected and what came. */
export class TuningError extends Error {
  override readonly name = 'TuningError';
}

/** Checks what `import` and files are given. Throws TuningError naming `source` and the field. */
export function parseTunedChoices(json: unknown, source: string): TunedChoices {
  const wrong = (field: string, expected: string, got: unknown): never => {
    throw new TuningError(
      `${source}: ${field === '' ? 'tuned choices' : field} must be ${expected}, got ${JSON.stringify(got)?.slice(0, 80) ?? 'nothing'}`,
    );
  };
  const text = (value: unknown, field: string): string =>
    typeof value === 'string' ? value : wrong(field, 'text', value);
  const time = (value: unknown, field: string): number =>
    typeof value === 'number' && value >= 0 ? value : wrong(field, 'a number of milliseconds', value);
  if (!isObject(json)) return wrong('', 'an object', json);
  const { version, subgroupSize } = json;
  if (version !== TUNING_VERSION) return wrong('version', String(TUNING_VERSION), version);
  if (!isObject(json.choices)) return wrong('choices', 'an object', json.choices);
  const choices = Object.entries(json.choices).map(([shapeClass, value]): [string, TunedChoice] => {
    const at = `choices[${JSON.stringify(shapeClass)}]`;
    if (!isObject(value)) return wrong(at, 'an object', value);
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
  return {
    version: TUNING_VERSION,
    adapter: text(json.adapter, 'adapter'),
    driver: text(json.driver, 'driver'),
    subgroupSize:
      typeof subgroupSize === 'number' && Number.isSafeInteger(subgroupSize) && subgroupSize >= 0
        ? subgroupSize
        : wrong('subgroupSize', 'an integer >= 0', subgroupSize),
    choices: Object.fromEntries(choices),
  };
}

export function hash(texts: Iterable<string>): string {
  let a = 0x811c9dc5,
    b = 0x9747b28c;
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

export function sourceHash(kernel: Kernel): string {
  let known = sourceHashes.get(kernel);
  if (known === undefined) sourceHashes.set(kernel, (known = hash([kernel.source])));
  return known;
}
