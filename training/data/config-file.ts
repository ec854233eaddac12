/** Reads a run's configuration: a preset or a JSON file, with changes of single keys. */
import { isObject, wrong, type JsonObject } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import type { LoadedConfig } from '../core/fit-to-data.ts';
import { applyOverride, leaves, valueAt, withValue } from '../core/overrides.ts';
import { validateRunConfig } from '../core/recipe-schema.ts';
import { isPresetName, PRESET_NAMES, presetConfig } from '../core/recipe.ts';
import { insteadOfFile, readJson } from './files.ts';

export interface ConfigSource {
  /**
   * A preset's name or a JSON file: `{ "preset": "small", "model": { ... }, "training": { ... } }`. Keys that the file
   * does not give come from its preset.
   */
  readonly config: string;
  /** `key=value` each; the value is JSON or plain text. */
  readonly set: readonly string[];
}

/** The keys of a configuration file. A run's config.json has all of them. */
const FILE_KEYS = ['preset', 'model', 'training', 'data', 'classNames', 'categoryIds', 'tuning'];

/**
 * Reads and validates a configuration.
 * @throws InputError naming the file or option, the key, the expected and the found value
 */
export function loadConfig({ config: name, set }: ConfigSource): LoadedConfig {
  const loaded = isPresetName(name) ? null : readConfigFile(name);
  const given = new Set(loaded?.given);
  let merged: JsonObject = loaded?.merged ?? { ...(isPresetName(name) ? presetConfig(name) : {}) };
  for (const item of set) {
    const { config, key } = applyOverride(merged, item);
    merged = config;
    given.add(key);
  }
  const source = `${loaded ? '' : 'preset '}${name}${set.length > 0 ? ` with --set ${set.join(' ')}` : ''}`;
  return {
    config: validateRunConfig(merged, source),
    given,
    data: loaded?.data ?? null,
    classNames: loaded?.classNames ?? null,
  };
}

interface ConfigFile extends Pick<LoadedConfig, 'given' | 'data' | 'classNames'> {
  /** The file's preset with the file's keys; not yet validated. */
  readonly merged: JsonObject;
}

function readConfigFile(name: string): ConfigFile {
  const instead = insteadOfFile(name);
  if (instead !== null)
    throw new InputError(
      `--config: expected a preset (${PRESET_NAMES.join(', ')}) or a JSON file, got ${name}: ${instead}`,
    );
  const file = readJson(name);
  if (!isObject(file)) throw new InputError(`${name}: expected a JSON object, got ${JSON.stringify(file)}`);
  for (const key of Object.keys(file))
    if (!FILE_KEYS.includes(key)) throw wrong(name, key, `one of the keys ${FILE_KEYS.join(', ')}`, file[key]);
  const { data, classNames } = file;
  const preset = file.preset ?? 'small';
  if (data !== undefined && !isPath(data)) throw wrong(name, 'data', "a folder's path", data);
  if (classNames !== undefined && !isNameList(classNames))
    throw wrong(name, 'classNames', 'a list of names', classNames);
  if (!isPresetName(preset)) throw wrong(name, 'preset', `one of ${PRESET_NAMES.join(', ')}`, preset);
  let merged: JsonObject = { ...presetConfig(preset) };
  const given = new Set<string>();
  for (const section of ['model', 'training'] as const) {
    const values = file[section] ?? {};
    if (!isObject(values)) throw wrong(name, section, 'an object', values);
    for (const key of leaves(values, section)) {
      if (key === section) continue;
      merged = withValue(merged, key.split('.'), valueAt(file, key.split('.')));
      given.add(key);
    }
  }
  return { merged, given, data: data ?? null, classNames: classNames ?? null };
}

const isPath = (value: unknown): value is string => typeof value === 'string' && value !== '';

const isNameList = (value: unknown): value is readonly string[] =>
  Array.isArray(value) && value.every((name) => typeof name === 'string');
