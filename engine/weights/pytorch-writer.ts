/**
 * Writes weights for Python: for `torch.load` of PyTorch >= 1.6 (also with `weights_only`), and as Detectron2's pickles
 * of numpy arrays. Runs in browsers.
 * Sources: torch/serialization.py, caffe2/serialize/inline_container.cc, detectron2/checkpoint.
 */
import type { Bytes } from './byte-reader.ts';
import { checkLength, denseStrides } from './elements.ts';
import { WeightsError } from './errors.ts';
import type { CheckpointTensor } from './formats.ts';
import { ByteWriter, PickleWriter } from './pickle-writer.ts';
import { crc32 } from './zip.ts';

type Tensors = ReadonlyMap<string, CheckpointTensor>;
type Metadata = Readonly<Record<string, string>>;

/** Keys that the formats use themselves. Metadata cannot have them. */
const RESERVED = ['model', '__author__', 'matching_heuristics'];

function checkTensors(tensors: Tensors, metadata: Metadata): void {
  for (const [name, { shape, data }] of tensors) checkLength(name, shape, data.length);
  for (const key of Object.keys(metadata))
    if (RESERVED.includes(key))
      throw new WeightsError(`metadata ${key}: expected a key that the format does not use, got one that it uses`);
}

const bytesOfArray = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>): Bytes =>
  new Uint8Array(buffer, byteOffset, byteLength);

/**
 * The file that `torch.save({"model": OrderedDict of float32 tensors, **metadata})` writes, in the zip format.
 * @throws WeightsError if a tensor's shape does not fit its data, or if the file would exceed 4 GiB
 */
export function writeTorchZip(tensors: Tensors, metadata: Metadata = {}): Bytes {
  checkTensors(tensors, metadata);
  const pickle = new PickleWriter(2).emptyDict();
  const storages: Bytes[] = [];
  pickle.setItems(() => {
    pickle
      .text('model')
      .emptyOrderedDict()
      .setItems(() => {
        for (const [name, { shape, data }] of tensors) {
          const key = String(storages.push(bytesOfArray(data)) - 1);
          // _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks)
          pickle
            .text(name)
            .global('torch._utils', '_rebuild_tensor_v2')
            .tuple(() => {
              pickle
                .tuple(() =>
                  pickle.text('storage').global('torch', 'FloatStorage').text(key).text('cpu').integer(data.length),
                )
                .persistent();
              pickle.integer(0).integers(shape).integers(denseStrides(shape)).boolean(false).emptyOrderedDict();
            })
            .call();
        }
      });
    for (const [key, value] of Object.entries(metadata)) pickle.text(key).text(value);
  });
  const ascii = (text: string): Bytes => new TextEncoder().encode(text);
  return writeStoredZip([
    ['archive/data.pkl', pickle.finish()],
    ['archive/byteorder', ascii('little')],
    ...storages.map((bytes, i): [string, Bytes] => [`archive/data/${i}`, bytes]),
    ['archive/version', ascii('3\n')],
  ]);
}

const LOCAL = 0x04034b50;
const DIRECTORY = 0x02014b50;
const END = 0x06054b50;
const LOCAL_BYTES = 30;
const EXTRA_HEADER_BYTES = 4;
/** Alignment of storages in bytes, for PyTorch's memory mapping. */
const ALIGNMENT = 64;
/** The extra field "FB", which PyTorch uses for padding. */
const PADDING_ID = 0x4246;
/** 1 January 1980, the first date of the format. A fixed date gives the same file for the same weights. */
const DATE = 0x21;

/** Stored entries, each at a multiple of 64 bytes. Source: PKWARE APPNOTE 6.3, without zip64. */
function writeStoredZip(entries: readonly (readonly [name: string, bytes: Bytes])[]): Bytes {
  const out = new ByteWriter();
  const directory = new ByteWriter();
  for (const [name, bytes] of entries) {
    const encoded = new TextEncoder().encode(name);
    const at = out.length;
    const unpadded = at + LOCAL_BYTES + encoded.length + EXTRA_HEADER_BYTES;
    const padding = (ALIGNMENT - (unpadded % ALIGNMENT)) % ALIGNMENT;
    // Version 2.0, no flags, stored. Local headers and directory entries have these fields in common.
    const common = (writer: ByteWriter, extraBytes: number): ByteWriter =>
      writer
        .u16(20)
        .u16(0)
        .u16(0)
        .u16(0)
        .u16(DATE)
        .u32(crc)
        .u32(bytes.length)
        .u32(bytes.length)
        .u16(encoded.length)
        .u16(extraBytes);
    const crc = crc32(bytes);
    common(out.u32(LOCAL), EXTRA_HEADER_BYTES + padding)
      .bytes(encoded)
      .u16(PADDING_ID)
      .u16(padding)
      .bytes(new Uint8Array(padding).fill(0x5a))
      .bytes(bytes);
    common(directory.u32(DIRECTORY).u16(20), 0).u16(0).u16(0).u16(0).u32(0).u32(at).bytes(encoded);
  }
  const directoryAt = out.length;
  const directoryBytes = directory.join();
  if (directoryAt + directoryBytes.length >= 2 ** 32)
    throw new WeightsError(`a zip file: expected at most 4 GiB, got ${directoryAt} bytes; write safetensors`);
  if (entries.length >= 2 ** 16)
    throw new WeightsError(`a zip file: expected at most 65535 entries, got ${entries.length}; write safetensors`);
  out
    .bytes(directoryBytes)
    .u32(END)
    .u16(0)
    .u16(0)
    .u16(entries.length)
    .u16(entries.length)
    .u32(directoryBytes.length)
    .u32(directoryAt)
    .u16(0);
  return out.join();
}

/**
 * A file as in Detectron2's model zoo. It is the pickle of {"model": {name: float32 numpy array}, "__author__": author,
 * "matching_heuristics": false, **metadata}. `pickle.load(file)` and Detectron2's checkpointer read it.
 * @throws WeightsError if a tensor's shape does not fit its data, or if a tensor takes 4 GiB
 */
export function writeDetectron2Pickle(tensors: Tensors, author: string, metadata: Metadata = {}): Bytes {
  checkTensors(tensors, metadata);
  const pickle = new PickleWriter(3).emptyDict();
  pickle.setItems(() => {
    pickle
      .text('model')
      .emptyDict()
      .setItems(() => {
        for (const [name, tensor] of tensors) {
          pickle.text(name);
          numpyArray(pickle, name, tensor);
        }
      });
    pickle.text('__author__').text(author).text('matching_heuristics').boolean(false);
    for (const [key, value] of Object.entries(metadata)) pickle.text(key).text(value);
  });
  return pickle.finish();
}

/**
 * An array as in numpy.ndarray.__reduce__: _reconstruct(ndarray, (0,), b"b"), then the state (version, shape, dtype, is
 * Fortran order, data). numpy 2 still has these names.
 */
function numpyArray(pickle: PickleWriter, name: string, { shape, data }: CheckpointTensor): void {
  const bytes = bytesOfArray(data);
  if (bytes.length >= 2 ** 32)
    throw new WeightsError(
      `${name}: expected less than 4 GiB, which this protocol can hold, got ${bytes.length} bytes`,
    );
  pickle
    .global('numpy.core.multiarray', '_reconstruct')
    .tuple(() => pickle.global('numpy', 'ndarray').integers([0]).bytes(Uint8Array.of(0x62)))
    .call();
  pickle
    .tuple(() => {
      pickle.integer(1).integers(shape);
      pickle
        .global('numpy', 'dtype')
        .tuple(() => pickle.text('f4').boolean(false).boolean(true))
        .call();
      // (version, byte order, subdtype, names, fields, item size, alignment, flags)
      pickle.tuple(() => pickle.integer(3).text('<').none().none().none().integer(-1).integer(-1).integer(0)).build();
      pickle.boolean(false).bytes(bytes);
    })
    .build();
}
