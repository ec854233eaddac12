/**
 * Weights as files that Python reads: `torch.load` of PyTorch >= 1.6 (also with `weights_only`), and Detectron2's pickles of numpy arrays.
 * Runs in browsers: data in, bytes out. Sources: torch/serialization.py, caffe2/serialize/inline_container.cc, detectron2/checkpoint.
 */
import type { Bytes } from './byte-reader.ts';
import { denseStrides } from './elements.ts';
import type { CheckpointTensor } from './formats.ts';
import { ByteWriter, PickleWriter } from './pickle-writer.ts';
import { WeightsError } from './safetensors.ts';
import { crc32 } from './zip.ts';

type Tensors = ReadonlyMap<string, CheckpointTensor>;
type Metadata = Readonly<Record<string, string>>;

/** Keys that stand for something else in these files. */
const RESERVED = ['model', '__author__', 'matching_heuristics'];

function checkTensors(tensors: Tensors, metadata: Metadata): void {
  for (const [name, { shape, data }] of tensors) {
    const elements = shape.reduce((product, n) => product * n, 1);
    if (elements !== data.length)
      throw new WeightsError(`${name}: shape [${shape.join(', ')}] has ${elements} elements, the data ${data.length}`);
  }
  for (const key of Object.keys(metadata))
    if (RESERVED.includes(key)) throw new WeightsError(`metadata ${key}: the file format uses this key itself`);
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>): Bytes =>
  new Uint8Array(buffer, byteOffset, byteLength);

/**
 * What `torch.save({"model": OrderedDict of float32 tensors, **metadata})` writes, in the zip format.
 * @throws WeightsError naming a tensor whose shape and data disagree, or where the file would pass 4 GiB
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
          const key = String(storages.push(bytesOf(data)) - 1);
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

const LOCAL = 0x04034b50,
  DIRECTORY = 0x02014b50,
  END = 0x06054b50;
const LOCAL_BYTES = 30,
  EXTRA_HEADER_BYTES = 4;
/** PyTorch maps its storages into memory, and wants them aligned so. */
const ALIGNMENT = 64;
/** Extra field "FB": PyTorch's padding. */
const PADDING_ID = 0x4246;
/** 1 January 1980, the first day that zip knows: the same weights give the same file. */
const DATE = 0x21;

/** Entries as they are, each beginning at a multiple of 64 bytes. Format: PKWARE APPNOTE 6.3, without zip64. */
function writeStoredZip(entries: readonly (readonly [name: string, bytes: Bytes])[]): Bytes {
  const out = new ByteWriter(),
    directory = new ByteWriter();
  for (const [name, bytes] of entries) {
    const encoded = new TextEncoder().encode(name);
    const at = out.length;
    const unpadded = at + LOCAL_BYTES + encoded.length + EXTRA_HEADER_BYTES;
    const padding = (ALIGNMENT - (unpadded % ALIGNMENT)) % ALIGNMENT;
    // Version 2.0, no flags, stored.
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
  const directoryAt = out.length,
    directoryBytes = directory.join();
  if (directoryAt + directoryBytes.length >= 2 ** 32)
    throw new WeightsError(`a zip file of ${directoryAt} bytes: at most 4 GiB are written; write safetensors`);
  if (entries.length >= 2 ** 16)
    throw new WeightsError(`a zip file of ${entries.length} entries: at most 65535 are written; write safetensors`);
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
 * What Detectron2's model zoo holds: the pickle of {"model": {name: float32 numpy array}, "__author__": author, "matching_heuristics": false, **metadata}.
 * Read it by `pickle.load(file)`; Detectron2's checkpointer reads it as it is.
 * @throws WeightsError naming a tensor whose shape and data disagree, or that takes 4 GiB
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

/** As numpy.ndarray.__reduce__ gives it: _reconstruct(ndarray, (0,), b"b"), then (version, shape, dtype, is Fortran order, data). numpy 2 still has these names. */
function numpyArray(pickle: PickleWriter, name: string, { shape, data }: CheckpointTensor): void {
  const bytes = bytesOf(data);
  if (bytes.length >= 2 ** 32)
    throw new WeightsError(`${name}: ${bytes.length} bytes: a pickle of this protocol holds less than 4 GiB a tensor`);
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
