/** Changes of single keys of a configuration: the `--set key=value` of commands, and the keys of a file. */
import { isObject, type JsonObject } from './checks.ts';
import { PAPER_AUGMENTATION } from './augmentation.ts';
import { InputError } from './errors.ts';

/** Objects that can be replaced as a whole. */
const GROUPS = [
  'training.augmentation',
  'training.augmentation.crop',
  'training.augmentation.color',
  'training.evaluationResize',
];
const CROP = 'training.augmentation.crop';

/** Values of the configuration that are not objects, as dotted keys, e.g. `training.augmentation.flip`. */
export function leaves(value: unknown, path: string): string[] {
  return isObject(value)
    ? Object.entries(value).flatMap(([key, inner]) => leaves(inner, `${path}${path ? '.' : ''}${key}`))
    : [path];
}

/** The value at a path, undefined if there is none. */
export function valueAt(root: JsonObject, path: readonly string[]): unknown {
  return path.reduce<unknown>((at, key) => (isObject(at) ? at[key] : undefined), root);
}

/** A copy with another value at a path; missing objects on the way are created. */
export function withValue(root: JsonObject, [key, ...rest]: readonly string[], value: unknown): JsonObject {
  const inner = root[key];
  return { ...root, [key]: rest.length === 0 ? value : withValue(isObject(inner) ? inner : {}, rest, value) };
}

/** The full key of `model.depth`, `depth` or `augmentation.flip`. Throws InputError if no key, or several, fit. */
function resolveKey(config: JsonObject, key: string): string {
  const known = [
    ...new Set([
      ...leaves(config.model, 'model'),
      ...leaves(config.training, 'training'),
      ...leaves(PAPER_AUGMENTATION.crop, CROP),
      ...GROUPS,
    ]),
  ];
  const all = known.filter((full) => full === key || full.endsWith(`.${key}`));
  // "shortSides" means that of the augmentation, not that of its crop.
  const outsideCrop = all.filter((full) => !full.startsWith(`${CROP}.`));
  const matches = outsideCrop.length > 0 ? outsideCrop : all;
  if (matches.length === 1) return matches[0];
  if (matches.includes(key)) return key;
  if (matches.length > 1) throw new InputError(`--set ${key}: expected one of ${matches.join(', ')}, got ${key}`);
  const names = known.map((full) => full.replace(/^(model|training)\./, ''));
  throw new InputError(`--set ${key}: expected one of the keys ${names.join(', ')}, got ${key}`);
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Applies a `key=value`; the value is JSON or plain text.
 * @returns the changed copy, and the full key
 * @throws InputError if the key does not exist or is ambiguous
 */
export function applyOverride(config: JsonObject, item: string): { config: JsonObject; key: string } {
  const equals = item.indexOf('=');
  if (equals < 1) throw new InputError(`--set: expected key=value, got ${item}`);
  const key = resolveKey(config, item.slice(0, equals));
  return { config: withValue(config, key.split('.'), parseValue(item.slice(equals + 1))), key };
}
