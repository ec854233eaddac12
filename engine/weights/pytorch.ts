/**
 * Reads files of torch.save as plain data: the zip format (PyTorch >= 1.6) and the legacy format before it.
 * Source: torch/serialization.py.
 */
import { ByteReader, latin1, type Bytes } from './byte-reader.ts';
import { ELEMENT_BYTES, type StridedTensor } from './elements.ts';
import type { Fail } from './errors.ts';
import { WEIGHT_GLOBALS } from './pickle-globals.ts';
import { PickleDict, PickleList, type PickleValue } from './pickle-values.ts';
import { readPickle } from './pickle.ts';
import { storageOf, type TorchStorage, type TorchTensor } from './torch-globals.ts';
import { readZip } from './zip.ts';

export interface TorchFile {
  readonly root: PickleValue;
  /**
   * The place of a tensor of `root` in the file; null if the reader does not support the tensor's element type.
   * Throws WeightsError if the tensor's storage is missing.
   * @param what names the tensor in errors
   */
  locate(tensor: TorchTensor, what: string): StridedTensor | null;
}

/** The first pickle of the legacy format without its PROTO opcode: LONG1, a number of ten bytes, and STOP. */
const MAGIC = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e];
const PROTOCOL_VERSION = 1001;

/** Whether a file has the legacy format. */
export function isTorchLegacy(bytes: Bytes): boolean {
  return bytes.length >= 2 + MAGIC.length && bytes[0] === 0x80 && MAGIC.every((byte, i) => bytes[2 + i] === byte);
}

/**
 * Reads a zip with one top folder. The folder holds data.pkl, byteorder (PyTorch >= 2.1), and data/<key> per storage.
 */
export function readTorchZip(bytes: Bytes, fail: Fail): TorchFile {
  const zip = readZip(bytes, fail);
  const pickleName = zip.names.find((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickleName === undefined) {
    const examples = zip.names.slice(0, 3).map((name) => JSON.stringify(name.slice(0, 60)));
    return fail(
      `a zip file without data.pkl: expected a checkpoint of PyTorch, got ${examples.join(', ') || 'no entries'}`,
    );
  }
  const folder = pickleName.slice(0, -'data.pkl'.length);
  if (zip.has(`${folder}constants.pkl`)) fail("a TorchScript archive: save the model's state_dict() instead");
  if (zip.has(`${folder}byteorder`)) {
    const order = latin1(zip.read(`${folder}byteorder`).subarray(0, 16));
    if (order !== 'little') fail(`byteorder: expected "little", got ${JSON.stringify(order)}`);
  }
  const root = readPickle(new ByteReader(zip.read(pickleName), fail), {
    fail,
    globals: WEIGHT_GLOBALS,
    persistent: (id) => storageOf(id, fail),
  });
  const storages = new Map<string, Bytes>();
  const bytesOf = ({ key }: TorchStorage): Bytes => {
    const storage = storages.get(key) ?? zip.read(`${folder}data/${key}`);
    storages.set(key, storage);
    return storage;
  };
  return { root, locate: (tensor, what) => locate(tensor, bytesOf(tensor.storage), what, fail) };
}

/**
 * Reads five pickles: magic number, protocol, byte order, data, and storage keys.
 * Each storage follows as a number of elements and the elements.
 */
export function readTorchLegacy(bytes: Bytes, fail: Fail): TorchFile {
  const reader = new ByteReader(bytes, fail);
  const plain = { fail, globals: new Map() };
  readPickle(reader, plain);
  const protocol = readPickle(reader, plain);
  if (protocol !== PROTOCOL_VERSION)
    fail(
      `protocol version: expected ${PROTOCOL_VERSION}, got ${typeof protocol === 'number' ? protocol : 'no number'}`,
    );
  const system = readPickle(reader, plain);
  if (!(system instanceof PickleDict)) return fail("the writer's system: expected a dict, got another value: corrupt");
  if (system.entries.get('little_endian') !== true)
    fail('expected a little-endian file, got one of a big-endian machine');

  const described = new Map<string, TorchStorage>();
  const root = readPickle(reader, {
    fail,
    globals: WEIGHT_GLOBALS,
    persistent: (id) => {
      const storage = storageOf(id, fail);
      const first = described.get(storage.key);
      if (!first) described.set(storage.key, storage);
      else if (first.type.name !== storage.type.name || first.count !== storage.count)
        fail('a storage has two different descriptions: corrupt');
      return storage;
    },
  });
  const keys = readPickle(reader, plain);
  if (!(keys instanceof PickleList)) return fail("the storages' keys: expected a list, got another value: corrupt");
  const storages = new Map<string, Bytes>();
  for (const key of keys.items) {
    const storage = typeof key === 'string' || typeof key === 'number' ? described.get(String(key)) : undefined;
    if (!storage) return fail('a storage: expected one that the data mentions, got another: corrupt');
    const { name, type } = storage.type;
    if (type === null && name !== 'torch.UntypedStorage') fail(`storages of ${name} are not read in this format`);
    const elementBytes = type === null ? 1 : ELEMENT_BYTES[type];
    const count = reader.u64();
    if (count !== storage.count) fail(`a storage: expected ${storage.count} elements, got ${count}: corrupt`);
    storages.set(storage.key, reader.take(count * elementBytes));
  }
  return {
    root,
    locate: (tensor, what) =>
      locate(
        tensor,
        storages.get(tensor.storage.key) ?? fail(`${what}: its storage is missing: truncated or corrupt`),
        what,
        fail,
      ),
  };
}

/** A tensor as a view of its storage's bytes. Throws WeightsError if the storage has another size than announced. */
function locate(
  { storage, type, offset, shape, strides }: TorchTensor,
  bytes: Bytes,
  what: string,
  fail: Fail,
): StridedTensor | null {
  const { type: storageType, count } = storage;
  const announced = count * (storageType.type === null ? 1 : ELEMENT_BYTES[storageType.type]);
  if (storageType.type !== null && bytes.length !== announced) {
    fail(
      `${what}: its storage has ${bytes.length} bytes, ` +
        `${count} elements of ${storageType.name} take ${announced}: corrupt`,
    );
  }
  return type === null ? null : { bytes, type, shape, strides, offset: storage.offset + offset };
}
