/**
 * Loads weights of any supported format into a model: files of this project, of PyTorch and of Detectron2. Training
 * starts from the tensors that fit (`loadPretrained`). Evaluation and prediction need every tensor (`loadWhole`).
 */
import { readCheckpoint, type CheckpointFile } from '../../engine/index.ts';
import { storedShape } from '../../engine/nn/index.ts';
import { mapNames, type MapNamesOptions, type MappedWeights, type NameTable } from '../../model/index.ts';
import type { Detector } from '../core/detector.ts';
import { InputError } from '../core/errors.ts';
import { sameClasses } from '../core/fit-to-data.ts';
import { firstOf, OWN_METADATA, readBytes, weightsErrorsAsInput } from './weights-file.ts';

/** The entries of a file that are neither tensors nor this project's metadata. */
export function skippedIn(file: CheckpointFile): CheckpointFile['skipped'] {
  return file.skipped.filter(({ name }) => !OWN_METADATA.includes(name));
}

/**
 * Reads a file of any supported format: safetensors, PyTorch's `.pth` and `.pt`, Detectron2's `.pkl`.
 * @throws InputError naming the file and its error
 */
export function readAnyWeights(path: string): CheckpointFile {
  const bytes = readBytes(path);
  return weightsErrorsAsInput(() => readCheckpoint(bytes.buffer, path));
}

/** Maps a file's tensors to the model's names. Throws InputError where a value is not finite. */
function mapped(detector: Detector, file: CheckpointFile, path: string, options: MapNamesOptions): MappedWeights {
  const shapes = new Map([...detector.tensors()].map((entry) => [entry.name, storedShape(entry)]));
  const { pixelMean, pixelStd } = detector;
  const result = weightsErrorsAsInput(() =>
    mapNames(file.tensors, shapes, { ...options, file: path, pixelMean, pixelStd }),
  );
  for (const [name, { data }] of result.loaded) {
    const at = data.findIndex((value) => !Number.isFinite(value));
    if (at >= 0)
      throw new InputError(
        `${path}: ${name}: expected finite numbers, got ${data[at]} in element ${at}: ` +
          'the training of these weights may have diverged',
      );
  }
  return result;
}

/** How a file's tensors were matched with the model's. It is written as `weights.json` in the run's folder. */
export interface PretrainedReport extends NameTable {
  readonly file: string;
  readonly format: CheckpointFile['format'];
  /** The entries of the file that are not tensors of its weights. */
  readonly skipped: CheckpointFile['skipped'];
}

export interface LoadPretrainedOptions {
  /**
   * Accepts files of which less than half of the model's tensors match. For a file of a backbone, the tensors of the
   * backbone count.
   */
  readonly partial?: boolean;
  /** The classes of the training data. The report has a note if the file has other classes. */
  readonly classNames?: readonly string[];
}

/**
 * Loads the tensors of a file that fit into a model, before its training. The other tensors keep their initial values.
 * If the file has no experts and the model has, every expert gets the proposals of the file.
 * @returns the tensors that were loaded, missing, unexpected, or of another shape
 * @throws InputError naming the file if it cannot be read, or if less than half matches and `partial` is not set
 */
export function loadPretrained(
  detector: Detector,
  path: string,
  { partial = false, classNames }: LoadPretrainedOptions = {},
): PretrainedReport {
  const file = readAnyWeights(path);
  let result: MappedWeights;
  try {
    result = mapped(detector, file, path, { partial, broadcastExperts: true, resampleProposals: true });
  } catch (error) {
    throw error instanceof InputError && !partial ? new InputError(`${error.message} (--partial)`) : error;
  }
  const { loaded, table } = result;
  detector.load(loaded);
  const notes = [...table.notes];
  const own = classNamesIn(file);
  if (own && classNames && own.length === classNames.length && !sameClasses(own, classNames)) {
    notes.push(
      `the file's classes are ${firstOf(own)}, the data's ${firstOf(classNames)}: ` +
        'the number is the same, so the class layers were loaded; they must learn the new classes',
    );
  }
  return { file: path, format: file.format, ...table, notes, skipped: skippedIn(file) };
}

/** The class names in the metadata of a file of this project; null for other files. */
function classNamesIn(file: CheckpointFile): readonly string[] | null {
  try {
    const names: unknown = JSON.parse(file.metadata.class_names ?? 'null');
    return Array.isArray(names) && names.every((name) => typeof name === 'string') ? names : null;
  } catch {
    return null;
  }
}

/**
 * Loads all of a model's tensors from a file. A warning names the other tensors of the file.
 * @throws InputError naming the tensors that the file lacks or has in another shape
 */
export function loadWhole(detector: Detector, file: CheckpointFile, path: string, log: (line: string) => void): void {
  const { loaded, table } = mapped(detector, file, path, { partial: true });
  const { missing, reshaped, unexpected, source, scope, notes } = table;
  const total = table.loaded.length + missing.length + reshaped.length;
  if (scope === 'backbone') {
    throw new InputError(
      `${path}: expected a whole model, got a backbone only (names as of ${source}), ` +
        `which lacks ${missing.length} of the model's ${total} tensors: ${firstOf(missing)}; ` +
        'train from it with npm run train -- --weights',
    );
  }
  if (missing.length > 0)
    throw new InputError(
      `${path}: lacks ${missing.length} of the model's ${total} tensors (names as of ${source}): ${firstOf(missing)}`,
    );
  if (reshaped.length > 0) {
    const shapes = reshaped.map(
      ({ name, expected, got }) => `${name}: expected shape [${expected.join(', ')}], got [${got.join(', ')}]`,
    );
    throw new InputError(
      `${path}: has ${reshaped.length} of the model's ${total} tensors in another shape: ${firstOf(shapes, 3)}; ` +
        'the configuration may not belong to the file',
    );
  }
  if (unexpected.length > 0)
    log(`warning: ${path}: not in the model and ignored (${unexpected.length}): ${firstOf(unexpected)}`);
  for (const note of notes) log(`note: ${path}: ${note}`);
  detector.load(loaded);
}
