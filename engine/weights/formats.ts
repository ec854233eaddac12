/**
 * Reads a checkpoint of any format as named float32 tensors. The content of the file tells the format. The weights are
 * searched under the keys that checkpoints use. Runs in browsers.
 */
import { ByteReader, type Bytes } from './byte-reader.ts';
import { checkStrided, denseStrides, toFloat32, type ElementType, type StridedTensor } from './elements.ts';
import { failFor, type Fail } from './errors.ts';
import { NumpyArray } from './numpy-globals.ts';
import { WEIGHT_GLOBALS } from './pickle-globals.ts';
import { describePickle, PickleDict, printable, type PickleValue } from './pickle-values.ts';
import { readPickle } from './pickle.ts';
import { isTorchLegacy, readTorchLegacy, readTorchZip, type TorchFile } from './pytorch.ts';
import { readSafetensors } from './safetensors.ts';
import { TorchTensor } from './torch-globals.ts';

export type CheckpointFormat = 'safetensors' | 'torch-zip' | 'torch-legacy' | 'detectron2-pickle';

/** A tensor in PyTorch's shape and order. Tensors with the same values in the file may share `data`. */
export interface CheckpointTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array<ArrayBuffer>;
}

export interface CheckpointFile {
  readonly format: CheckpointFormat;
  /**
   * The metadata of a safetensors file. For other formats: the texts and numbers beside the weights (`__author__`,
   * `epoch`, ...), and `section`, the place of the weights.
   */
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, CheckpointTensor>;
  /** The entries of the file that are not tensors of its weights. */
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
}

export interface ReadCheckpointOptions {
  /** The place of the weights, e.g. `model_ema` or `ema.module`. Default: the first of SECTIONS that holds tensors. */
  readonly section?: string;
}

/**
 * The places of weights in checkpoints, in order of preference:
 * Detectron2, mmdetection and timm, averaged weights, Caffe2, DataParallel.
 */
const SECTIONS = [
  'model',
  'state_dict',
  'model_state',
  'ema',
  'model_ema',
  'ema_state_dict',
  'state_dict_ema',
  'blobs',
  'module',
];

const SAFETENSORS_TYPES: Readonly<Record<string, ElementType>> = {
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  F64: 'f64',
  I64: 'i64',
  I32: 'i32',
  I16: 'i16',
  I8: 'i8',
  U8: 'u8',
  BOOL: 'bool',
};

/**
 * Maximum ratio of the tensors' bytes to the file's bytes. float32 takes at most four times the bytes of another type.
 * Without a limit, expanded and overlapping tensors could take any number of bytes.
 */
const MAX_GROWTH = 8;

/**
 * Reads safetensors, PyTorch's zip and legacy formats, and Detectron2's pickles. float64 and integers round to float32.
 * Files must be little-endian.
 * Nothing in the file is executed. Pickles build tensors and plain data with an allow-list; other names are refused.
 * @param file names the source in errors
 * @throws WeightsError naming the file and what is wrong with it
 */
export function readCheckpoint(bytes: ArrayBuffer, file: string, options: ReadCheckpointOptions = {}): CheckpointFile {
  const fail = failFor(file);
  const data = new Uint8Array(bytes);
  const { section } = options;
  const source = (format: CheckpointFormat): Source => ({ format, bytes: data.length, section, fail });
  if (startsWith(data, [0x50, 0x4b, 0x03, 0x04])) return fromTorch(readTorchZip(data, fail), source('torch-zip'));
  if (isTorchLegacy(data)) return fromTorch(readTorchLegacy(data, fail), source('torch-legacy'));
  if (data[0] === 0x80 && data[1] >= 2 && data[1] <= 5) {
    const root = readPickle(new ByteReader(data, fail), { fail, globals: WEIGHT_GLOBALS });
    return fromPickle(root, null, source('detectron2-pickle'));
  }
  if (data[8] === 0x7b) return fromSafetensors(bytes, file, section, fail);
  if (startsWith(data.subarray(257), [0x75, 0x73, 0x74, 0x61, 0x72]))
    fail('a tar file of PyTorch before version 0.1.10: load and save it with a newer PyTorch');
  const head = [...data.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return fail(
    'not a checkpoint: expected safetensors, a file of torch.save, or a pickle of numpy arrays, ' +
      `got ${data.length} bytes that begin with ${head || 'nothing'}`,
  );
}

/** The file being read. */
interface Source {
  readonly format: CheckpointFormat;
  /** Length of the file. */
  readonly bytes: number;
  readonly section: string | undefined;
  readonly fail: Fail;
}

type Skipped = CheckpointFile['skipped'][number][];

function startsWith(bytes: Bytes, head: readonly number[]): boolean {
  return bytes.length >= head.length && head.every((byte, i) => bytes[i] === byte);
}

/** Converts strided tensors to float32 within a budget of bytes. Equal views of the file are converted once. */
class Converter {
  private readonly done = new Map<Bytes, Map<string, CheckpointTensor>>();
  private left: number;

  constructor(
    private readonly fileBytes: number,
    private readonly fail: Fail,
  ) {
    this.left = MAX_GROWTH * fileBytes + 2 ** 20;
  }

  convert(tensor: StridedTensor, what: string): CheckpointTensor {
    const count = checkStrided(tensor, what, this.fail);
    const { bytes, type, shape, strides, offset } = tensor;
    const converted = this.done.get(bytes) ?? new Map<string, CheckpointTensor>();
    this.done.set(bytes, converted);
    const key = `${type}|${offset}|${shape.join()}|${strides.join()}`;
    const known = converted.get(key);
    if (known) return known;
    this.left -= 4 * count;
    if (!(this.left >= 0))
      this.fail(
        `${what}: shape [${shape.join(', ')}]: the tensors take more than ` +
          `${MAX_GROWTH} times the file's ${this.fileBytes} bytes: refused`,
      );
    const result = { shape: [...shape], data: toFloat32(tensor) };
    converted.set(key, result);
    return result;
  }
}

function fromSafetensors(bytes: ArrayBuffer, file: string, section: string | undefined, fail: Fail): CheckpointFile {
  if (section !== undefined) fail(`section ${JSON.stringify(section)}: a safetensors file has no sections`);
  const { metadata, tensors: entries } = readSafetensors(bytes, file);
  const converter = new Converter(bytes.byteLength, fail);
  const tensors = new Map<string, CheckpointTensor>();
  const skipped: Skipped = [];
  for (const [name, { dtype, shape, data }] of entries) {
    const type = SAFETENSORS_TYPES[dtype];
    if (type === undefined) skipped.push({ name, reason: `element type ${dtype} is not read` });
    else if (data instanceof Float32Array) tensors.set(name, { shape, data });
    else
      tensors.set(
        name,
        converter.convert(
          { bytes: new Uint8Array(data.buffer), type, shape, strides: denseStrides(shape), offset: 0 },
          name,
        ),
      );
  }
  if (tensors.size === 0) fail('holds no tensors');
  return { format: 'safetensors', metadata, tensors, skipped };
}

const fromTorch = (torch: TorchFile, source: Source): CheckpointFile => fromPickle(torch.root, torch, source);

function isTensor(value: PickleValue): value is TorchTensor | NumpyArray {
  return value instanceof TorchTensor || value instanceof NumpyArray;
}

function hasTensors(value: PickleValue | undefined): value is PickleDict {
  if (!(value instanceof PickleDict)) return false;
  for (const entry of value.entries.values()) if (isTensor(entry)) return true;
  return false;
}

interface Section {
  readonly path: readonly string[];
  readonly dict: PickleDict;
}

/** The dict of tensors under one or two keys of SECTIONS; otherwise the root, if it has tensors; otherwise null. */
function findSection(root: PickleDict): Section | null {
  let level: Section[] = [{ path: [], dict: root }];
  for (let depth = 1; depth <= 2; depth++) {
    level = level.flatMap(({ path, dict }) =>
      SECTIONS.flatMap((name) => {
        const below = dict.entries.get(name);
        return below instanceof PickleDict ? [{ path: [...path, name], dict: below }] : [];
      }),
    );
    const found = level.find(({ dict }) => hasTensors(dict));
    if (found) return found;
  }
  return hasTensors(root) ? { path: [], dict: root } : null;
}

function namedSection(root: PickleDict, section: string, fail: Fail): Section {
  const path = section.split('.');
  let dict = root;
  for (const name of path) {
    const below = dict.entries.get(name);
    if (!(below instanceof PickleDict))
      return fail(
        `section ${JSON.stringify(section)}: expected a dict ${JSON.stringify(name)}, got ${entryNames(dict)}`,
      );
    dict = below;
  }
  return hasTensors(dict)
    ? { path, dict }
    : fail(`section ${JSON.stringify(section)}: expected tensors, got ${entryNames(dict)}`);
}

/** The first entries of a dict with their kinds, for messages. */
function entryNames(dict: PickleDict): string {
  const names: string[] = [];
  for (const [key, value] of dict.entries) {
    if (names.length === 8) return `${names.join(', ')} and ${dict.entries.size - 8} more`;
    names.push(`${typeof key === 'string' ? printable(key) : describePickle(key)} (${describePickle(value)})`);
  }
  return names.join(', ') || 'no entries';
}

/** The text for a value whose key is no text. */
const skippedKey = (key: PickleValue, value: PickleValue): Skipped[number] => ({
  name: describePickle(key),
  reason: `${describePickle(value)}, its key is not a text`,
});

/**
 * The metadata of a file: texts and numbers of the root beside the weights, and the place of the weights.
 * @param skipped gets the root's entries beside the weights
 */
function metadataOf(root: PickleDict, weights: Section, skipped: Skipped): Record<string, string> {
  const section = weights.path.join('.');
  const metadata: [string, string][] = weights.path.length > 0 ? [['section', section]] : [];
  if (weights.dict === root) return Object.fromEntries(metadata);
  for (const [key, value] of root.entries) {
    if (typeof key !== 'string') skipped.push(skippedKey(key, value));
    else if (value !== weights.dict && key !== weights.path[0]) {
      if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
        metadata.push([key, String(value)]);
      skipped.push({ name: key, reason: `${describePickle(value)} beside ${section}` });
    }
  }
  return Object.fromEntries(metadata);
}

/** Converts the tensors of a pickle. `torch` locates the tensors of PyTorch's formats; null for other pickles. */
function fromPickle(root: PickleValue, torch: TorchFile | null, source: Source): CheckpointFile {
  const { format, section, fail } = source;
  if (!(root instanceof PickleDict))
    return fail(
      `holds ${describePickle(root)}, expected a state_dict or a dict that has one under ${SECTIONS.join(', ')}`,
    );
  const found = section === undefined ? findSection(root) : namedSection(root, section, fail);
  if (!found)
    return fail(
      `has no tensors: expected a state_dict, or one under ${SECTIONS.join(', ')}; it has ${entryNames(root)}`,
    );
  const skipped: Skipped = [];
  const metadata = metadataOf(root, found, skipped);
  const converter = new Converter(source.bytes, fail);
  const tensors = new Map<string, CheckpointTensor>();
  for (const [key, value] of found.dict.entries) {
    if (typeof key !== 'string') {
      skipped.push(skippedKey(key, value));
      continue;
    }
    const what = printable(key);
    const located =
      value instanceof TorchTensor && torch
        ? torch.locate(value, what)
        : value instanceof NumpyArray
          ? value.tensor
          : null;
    if (located) tensors.set(key, converter.convert(located, what));
    else if (value instanceof TorchTensor)
      skipped.push({ name: key, reason: `elements of ${value.typeName} are not read` });
    else skipped.push({ name: key, reason: value instanceof NumpyArray ? value.reason : describePickle(value) });
  }
  if (tensors.size === 0)
    fail(
      `has no tensors that can be read: ${skipped
        .slice(0, 3)
        .map(({ name, reason }) => `${printable(name)}: ${reason}`)
        .join('; ')}`,
    );
  return { format, metadata, tensors, skipped };
}
