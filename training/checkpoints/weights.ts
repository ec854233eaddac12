/**
 * Weights from anywhere into a model: files of this project, of PyTorch and of Detectron2, by the names of whoever trained them. Training starts from what
 * fits (`loadPretrained`); evaluation and prediction want all of it (`loadWhole`), and a configuration with class names (`describeWeights`).
 */
import { readFileSync } from 'node:fs';
import { readCheckpoint, WeightsError, type CheckpointFile } from '../../engine/index.ts';
import { storedShape } from '../../engine/nn/index.ts';
import { mapNames, type MapNamesOptions, type MappedWeights, type NameTable } from '../../model/index.ts';
import { readDescription } from './checkpoint.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../data/coco-classes.ts';
import { asArray, asInteger, asName, asObject, wrong } from '../core/checks.ts';
import { readJson } from '../data/files.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import { loadConfig } from '../data/config-file.ts';
import { PRESET_NAMES, type RunConfig } from '../core/recipe.ts';
import { formatTable } from '../output/table.ts';

/** What makes a file of this project describe itself, in every format that is written. */
export const OWN_METADATA: readonly string[] = ['config', 'class_names', 'category_ids', 'iteration'];

/** What of a file is neither a tensor nor this project's description of it. */
export function skippedIn(file: CheckpointFile): CheckpointFile['skipped'] {
  return file.skipped.filter(({ name }) => !OWN_METADATA.includes(name));
}

/** Reads a file of any supported format: safetensors, PyTorch's `.pth` and `.pt`, Detectron2's `.pkl`. Throws InputError naming it and what is wrong with it. */
export function readAnyWeights(path: string): CheckpointFile {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const buffer = readFileSync(path);
    bytes =
      buffer.buffer instanceof ArrayBuffer && buffer.byteLength === buffer.buffer.byteLength
        ? new Uint8Array(buffer.buffer)
        : new Uint8Array(buffer);
  } catch (error) {
    throw new InputError(`${path}: cannot be read: ${(error as Error).message}`);
  }
  return asInput(() => readCheckpoint(bytes.buffer, path));
}

function asInput<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    throw error instanceof WeightsError ? new InputError(error.message) : error;
  }
}

function mapped(detector: Detector, file: CheckpointFile, path: string, options: MapNamesOptions): MappedWeights {
  const shapes = new Map([...detector.tensors()].map((entry) => [entry.name, storedShape(entry)]));
  const { pixelMean, pixelStd } = detector;
  const result = asInput(() => mapNames(file.tensors, shapes, { ...options, file: path, pixelMean, pixelStd }));
  for (const [name, { data }] of result.loaded) {
    const at = data.findIndex((value) => !Number.isFinite(value));
    if (at >= 0)
      throw new InputError(
        `${path}: ${name}: expected finite numbers, got ${data[at]} in element ${at}: weights of a training that diverged?`,
      );
  }
  return result;
}

/** What came of starting a training from a file; `weights.json` in the run's folder. */
export interface PretrainedReport extends NameTable {
  readonly file: string;
  readonly format: CheckpointFile['format'];
  /** What is in the file and is no tensor of its weights. */
  readonly skipped: CheckpointFile['skipped'];
}

export interface LoadPretrainedOptions {
  /** Allows less than half of the model's tensors (of its backbone's, for a file of a backbone) to match. */
  readonly partial?: boolean;
  readonly log: (line: string) => void;
  /** What the model is to find: a file with other classes is told of. */
  readonly classNames?: readonly string[];
  /** Where the caller writes the whole report, for lists that are shortened. */
  readonly reportFile?: string;
}

/**
 * Loads what fits of a file into a model to be trained, and prints a table of what was loaded, missing, unexpected, or of another shape. What does not fit
 * keeps its initial value. Proposals of a detector without experts go to every expert of a model that has them.
 * @throws InputError naming the file where it cannot be read, or where less than half matches and `partial` is not set
 */
export function loadPretrained(
  detector: Detector,
  path: string,
  { partial = false, log, classNames, reportFile }: LoadPretrainedOptions,
): PretrainedReport {
  const file = readAnyWeights(path);
  let result: MappedWeights;
  try {
    result = mapped(detector, file, path, { partial, broadcastExperts: true });
  } catch (error) {
    throw error instanceof InputError && !partial ? new InputError(`${error.message} (--partial)`) : error;
  }
  const { loaded, table } = result;
  detector.load(loaded);
  const notes = [...table.notes];
  const theirs = ownClassNames(file);
  if (theirs && classNames && theirs.length === classNames.length && theirs.join('\n') !== classNames.join('\n')) {
    notes.push(
      `the file's classes are ${few(theirs)}, the data's ${few(classNames)}: as many, so the class layers were loaded, and will have to learn the new ones`,
    );
  }
  const report: PretrainedReport = { file: path, format: file.format, ...table, notes, skipped: skippedIn(file) };
  for (const line of describeReport(report, reportFile)) log(line);
  return report;
}

function ownClassNames(file: CheckpointFile): readonly string[] | null {
  try {
    const names: unknown = JSON.parse(file.metadata.class_names ?? 'null');
    return Array.isArray(names) && names.every((name) => typeof name === 'string') ? names : null;
  } catch {
    return null;
  }
}

const few = (names: readonly string[], most = 5): string =>
  `${names.slice(0, most).join(', ')}${names.length > most ? ` and ${names.length - most} more` : ''}`;

/** Names of a list that are printed. */
const SHOWN_NAMES = 6;

/** The table as lines: first how many, then which; long lists are shortened. */
export function describeReport(
  { file, format, source, scope, loaded, missing, unexpected, reshaped, notes, skipped }: PretrainedReport,
  reportFile?: string,
): string[] {
  const total = loaded.length + missing.length + reshaped.length;
  const size = (shape: readonly number[]): string => `[${shape.join(', ')}]`;
  const lists: readonly (readonly [string, readonly string[]])[] = [
    ['missing in the file', missing],
    ['unexpected in the file', unexpected],
    [
      'of another shape',
      reshaped.map(({ name, expected, got }) => `${name} is ${size(expected)}, in the file ${size(got)}`),
    ],
    ['not read', skipped.map(({ name, reason }) => `${name}: ${reason}`)],
  ];
  const left = lists.reduce((sum, [, names]) => sum + Math.max(0, names.length - SHOWN_NAMES), 0);
  const counts = formatTable(
    ['tensors', 'count', 'what becomes of them'],
    [
      ['loaded', loaded.length, `of the model's ${total}`],
      ['missing', missing.length, missing.length > 0 ? 'not in the file: start fresh' : ''],
      ['unexpected', unexpected.length, unexpected.length > 0 ? 'not in the model: left out' : ''],
      ['another shape', reshaped.length, reshaped.length > 0 ? 'start fresh' : ''],
      ...(skipped.length > 0 ? [['not read', skipped.length, 'no tensors of the weights: left out']] : []),
    ],
  );
  return [
    `weights   ${file}: ${format}, names as of ${source}${scope === 'backbone' ? ', a backbone only' : ''}`,
    ...counts.split('\n').map((line) => `  ${line}`),
    ...lists.flatMap(([title, names]) =>
      names.length === 0
        ? []
        : [
            `  ${title}:`,
            ...names.slice(0, SHOWN_NAMES).map((name) => `    ${name}`),
            ...(names.length > SHOWN_NAMES ? [`    ... and ${names.length - SHOWN_NAMES} more`] : []),
          ],
    ),
    ...(left > 0 && reportFile !== undefined ? [`  all names: ${reportFile}`] : []),
    ...notes.map((note) => `  note: ${note}`),
  ];
}

/**
 * Loads all of a model's tensors from a file; prints what of the file was not used.
 * @throws InputError naming the tensors that the file lacks or has in another shape
 */
export function loadWhole(detector: Detector, file: CheckpointFile, path: string, log: (line: string) => void): void {
  const {
    loaded,
    table: { loaded: taken, missing, reshaped, unexpected, source, scope, notes },
  } = mapped(detector, file, path, { partial: true });
  const total = taken.length + missing.length + reshaped.length;
  if (scope === 'backbone') {
    throw new InputError(
      `${path}: holds a backbone only (names as of ${source}) and lacks ${missing.length} of the model's ${total} tensors: ${few(missing)}; ` +
        'train from it with npm run train -- --weights',
    );
  }
  if (missing.length > 0)
    throw new InputError(
      `${path}: lacks ${missing.length} of the model's ${total} tensors (names as of ${source}): ${few(missing)}`,
    );
  if (reshaped.length > 0) {
    const shapes = reshaped.map(
      ({ name, expected, got }) =>
        `${name}: the model has shape [${expected.join(', ')}], the file [${got.join(', ')}]`,
    );
    throw new InputError(
      `${path}: has ${reshaped.length} of the model's ${total} tensors in another shape: ${few(shapes, 3)}; does the configuration belong to it?`,
    );
  }
  if (unexpected.length > 0)
    log(`warning: ${path}: not in the model and left out (${unexpected.length}): ${few(unexpected)}`);
  for (const note of notes) log(`note: ${path}: ${note}`);
  detector.load(loaded);
}

/** What `--config` and `--classes` say of weights that do not describe themselves. */
export interface DescriptionOptions {
  readonly config?: string | undefined;
  readonly classes?: string | undefined;
}

export interface ModelDescription {
  readonly config: RunConfig;
  readonly classNames: readonly string[];
  readonly categoryIds: readonly number[];
}

/** For the help texts of the commands that use `describeWeights`. */
export const DESCRIPTION_HELP = `  --config C      for a file without a configuration inside: a preset (${PRESET_NAMES.join(', ')}) or a JSON file, such as a run's config.json
  --classes FILE  likewise the class names: JSON, a list of names or of {"id", "name"}, or a COCO file with its "categories"; 80 classes are COCO's without it`;

/**
 * The configuration and class names that belong to weights: those in the file; else those of `--config`, with `--classes`, the run's class names in
 * the configuration's file, or COCO's where there are 80.
 * @throws InputError where there is nothing to go by, or an option contradicts the file
 */
export function describeWeights(
  command: string,
  path: string,
  file: CheckpointFile,
  { config: name, classes }: DescriptionOptions,
): ModelDescription {
  if (Object.hasOwn(file.metadata, 'config') && Object.hasOwn(file.metadata, 'class_names')) {
    if (name !== undefined) throw new InputError(`${command}: --config: ${path} carries its own configuration`);
    if (classes !== undefined) throw new InputError(`${command}: --classes: ${path} carries its own class names`);
    return readDescription(file, path);
  }
  if (name === undefined) {
    throw new InputError(
      `${path}: carries no configuration, as files of this project do: say with --config which network it is (${PRESET_NAMES.join(', ')}, or a JSON file)`,
    );
  }
  const { config, given } = loadConfig({ config: name, set: [] });
  const { numClasses } = config.model;
  const named = classes !== undefined ? readClasses(classes) : classesOfRun(name);
  if (named) {
    const { length } = named.classNames;
    if (length === numClasses) return { config, ...named };
    if (given.has('model.numClasses'))
      throw new InputError(`${classes ?? name}: has ${length} classes, the configuration ${name} has ${numClasses}`);
    return { config: { ...config, model: { ...config.model, numClasses: length } }, ...named };
  }
  if (numClasses === COCO_CLASS_NAMES.length)
    return { config, classNames: COCO_CLASS_NAMES, categoryIds: COCO_CATEGORY_IDS };
  throw new InputError(
    `${command}: ${path} carries no class names: expected --classes FILE.json with the ${numClasses} classes of ${name}`,
  );
}

type Classes = Pick<ModelDescription, 'classNames' | 'categoryIds'>;

/** The class names of a run's config.json; null for presets and for configurations without. */
function classesOfRun(config: string): Classes | null {
  if ((PRESET_NAMES as readonly string[]).includes(config)) return null;
  const json = asObject(readJson(config), config, 'the whole file');
  return json.classNames === undefined ? null : classList(json.classNames, config, 'classNames', json.categoryIds);
}

function readClasses(file: string): Classes {
  const json = readJson(file);
  if (Array.isArray(json)) return classList(json, file, 'the list');
  const { categories, classNames, categoryIds } = asObject(json, file, 'the whole file');
  if (classNames !== undefined) return classList(classNames, file, 'classNames', categoryIds);
  return classList(categories, file, 'categories');
}

/** @param ids of names without one; 1, 2, ... where there are none */
function classList(value: unknown, file: string, field: string, ids?: unknown): Classes {
  const entries = asArray(value, file, field);
  if (entries.length === 0) throw wrong(file, field, 'at least one class', value);
  const given = ids === undefined ? null : asArray(ids, file, 'categoryIds');
  if (given && given.length !== entries.length) throw wrong(file, 'categoryIds', `${entries.length} ids`, ids);
  const classes = entries.map((entry, i) => {
    if (typeof entry === 'string')
      return {
        name: asName(entry, file, `${field}[${i}]`),
        id: given ? asInteger(given[i], 0, file, `categoryIds[${i}]`) : i + 1,
      };
    const category = asObject(entry, file, `${field}[${i}]`);
    return {
      name: asName(category.name, file, `${field}[${i}].name`),
      id: asInteger(category.id, 0, file, `${field}[${i}].id`),
    };
  });
  for (const key of ['name', 'id'] as const) {
    const seen = new Set<string | number>();
    classes.forEach((entry, i) => {
      if (seen.has(entry[key])) throw wrong(file, `${field}[${i}]`, `a ${key} that no other class has`, entry[key]);
      seen.add(entry[key]);
    });
  }
  // COCO's own files list their categories by id; data sets number classes so.
  if (entries.every((entry) => typeof entry === 'object')) classes.sort((a, b) => a.id - b.id);
  return { classNames: classes.map(({ name }) => name), categoryIds: classes.map(({ id }) => id) };
}
