/** Finds the configuration and class names of a weights file, in the file itself or in files named by options. */
import * as v from 'valibot';
import type { CheckpointFile } from '../../engine/index.ts';
import { anyObject, checked, withFields, integer, list, nonEmptyText, wrong } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { isPresetName, PRESET_NAMES } from '../core/recipe.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../data/coco-classes.ts';
import { loadConfig } from '../data/config-file.ts';
import { readJson } from '../data/files.ts';
import { inferenceConfigOf, type PublicWeights } from './public-weights.ts';
import { readDescription, type ModelDescription } from './weights-file.ts';

/** The options `--config` and `--classes`, for weights files without configuration or class names. */
export interface DescriptionOptions {
  readonly config?: string | undefined;
  readonly classes?: string | undefined;
  /** The public weights that the file is, if the user gave their name. Their configuration is the default. */
  readonly named?: PublicWeights | null;
}

const NAMES = PRESET_NAMES.join(', ');

/** The help text of these options. */
export const DESCRIPTION_HELP = `\
  --config C      for a file without a configuration: a preset (${NAMES})
                  or a JSON file, such as a run's config.json
  --classes FILE  for a file without class names: JSON, a list of names or of {"id", "name"},
                  or a COCO file with its "categories"; default with 80 classes: COCO's`;

/**
 * The configuration and class names of weights. A file of this project contains both. For other files, `--config`
 * gives the configuration; public weights have a configuration that fits. The class names then come from `--classes`,
 * from the configuration's file, or from COCO if there are 80 classes.
 * @throws InputError if a part is unknown, or if an option is given although the file contains its value
 */
export function describeWeights(
  command: string,
  path: string,
  file: CheckpointFile,
  { config: given, classes, named = null }: DescriptionOptions,
): ModelDescription {
  if (Object.hasOwn(file.metadata, 'config') && Object.hasOwn(file.metadata, 'class_names')) {
    if (given !== undefined)
      throw new InputError(`${command}: --config: expected no value, because ${path} contains a configuration`);
    if (classes !== undefined)
      throw new InputError(`${command}: --classes: expected no value, because ${path} contains class names`);
    return readDescription(file, path);
  }
  const source = given === undefined ? named && inferenceConfigOf(named) : { config: given, set: [] };
  if (source === null) {
    throw new InputError(
      `${path}: expected weights with a configuration, as files of this project have, got none; ` +
        `name its configuration with --config (${NAMES}, or a JSON file)`,
    );
  }
  const name = source.config;
  const { config, given: givenKeys } = loadConfig(source);
  const { numClasses } = config.model;
  const known = classes !== undefined ? readClasses(classes) : classesOfRun(name);
  if (known) {
    const { length } = known.classNames;
    if (length === numClasses) return { config, ...known };
    if (givenKeys.has('model.numClasses'))
      throw new InputError(
        `${classes ?? name}: expected ${numClasses} classes, as in the configuration ${name}, got ${length}`,
      );
    return { config: { ...config, model: { ...config.model, numClasses: length } }, ...known };
  }
  if (numClasses === COCO_CLASS_NAMES.length)
    return { config, classNames: COCO_CLASS_NAMES, categoryIds: COCO_CATEGORY_IDS };
  throw new InputError(
    `${command}: ${path} contains no class names: ` +
      `expected --classes FILE.json with the ${numClasses} classes of ${name}`,
  );
}

type Classes = Pick<ModelDescription, 'classNames' | 'categoryIds'>;

/** The class names of a run's config.json; null for presets and for configurations without class names. */
function classesOfRun(config: string): Classes | null {
  if (isPresetName(config)) return null;
  const json = checked(anyObject, readJson(config), config);
  return json.classNames === undefined ? null : classList(json.classNames, config, 'classNames', json.categoryIds);
}

function readClasses(file: string): Classes {
  const json = readJson(file);
  if (Array.isArray(json)) return classList(json, file, '');
  const { categories, classNames, categoryIds } = checked(anyObject, json, file);
  if (classNames !== undefined) return classList(classNames, file, 'classNames', categoryIds);
  return classList(categories, file, 'categories');
}

const CATEGORY = withFields({ name: nonEmptyText, id: integer(0) });

/**
 * Classes from a list of names or of categories.
 * @param ids the category ids of names; undefined: 1, 2, ...
 */
function classList(value: unknown, file: string, field: string, ids?: unknown): Classes {
  const entries = checked(list(v.unknown()), value, file, field);
  if (entries.length === 0) throw wrong(file, field, 'at least one class', value);
  const given = ids === undefined ? null : checked(list(integer(0)), ids, file, 'categoryIds');
  if (given && given.length !== entries.length) throw wrong(file, 'categoryIds', `${entries.length} ids`, ids);
  const classes = entries.map((entry, i) =>
    typeof entry === 'string'
      ? { name: checked(nonEmptyText, entry, file, `${field}[${i}]`), id: given ? given[i] : i + 1 }
      : checked(CATEGORY, entry, file, `${field}[${i}]`),
  );
  for (const key of ['name', 'id'] as const) {
    const seen = new Set<string | number>();
    classes.forEach((entry, i) => {
      if (seen.has(entry[key])) throw wrong(file, `${field}[${i}]`, `a ${key} that no other class has`, entry[key]);
      seen.add(entry[key]);
    });
  }
  // Data sets number classes by category id, and COCO's own files list their categories in this order.
  if (entries.every((entry) => typeof entry === 'object')) classes.sort((a, b) => a.id - b.id);
  return { classNames: classes.map(({ name }) => name), categoryIds: classes.map(({ id }) => id) };
}
