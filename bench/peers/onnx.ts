/**
 * onnxruntime as a peer: forward passes of matrix products and convolutions on the processor, for the comparison with
 * adapters that run on the processor. This file also encodes the ONNX models, which have one node.
 */
import { settleSleeping } from '../../engine/node/index.ts';
import type { PeerOp } from '../case.ts';
import { channelsFirst, channelsLast, outputsFirst } from '../layout.ts';
import { loadPeer } from './install.ts';
import type { Peer } from './peer.ts';

interface OrtTensor {
  readonly data: Float32Array;
  readonly dims: readonly number[];
}

interface Ort {
  readonly Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => OrtTensor;
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options: typeof SESSION,
    ): Promise<{ run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>> }>;
  };
}

/** Threads must not spin after a run: they would take cores from the engine that is measured next. */
const SESSION = {
  executionProviders: ['cpu'],
  extra: { session: { 'intra_op.allow_spinning': '0', 'inter_op.allow_spinning': '0' } },
};

// Encoding of a model of one node as protocol buffers. The first arguments are field numbers of onnx.proto3.

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...varint(Math.floor(value / 128))];
}

const number = (field: number, value: number): number[] => [...varint(field * 8), ...varint(value)];
const bytes = (field: number, content: readonly number[]): number[] => [
  ...varint(field * 8 + 2),
  ...varint(content.length),
  ...content,
];
const text = (field: number, value: string): number[] => bytes(field, [...new TextEncoder().encode(value)]);

const FLOAT = 1;
const INT = 2;
const INTS = 7;
const IR_VERSION = 8;
const OPSET = 13;

const integers = (name: string, values: readonly number[]): number[] =>
  bytes(5, [...text(1, name), ...values.flatMap((value) => number(8, value)), ...number(20, INTS)]);
const integer = (name: string, value: number): number[] =>
  bytes(5, [...text(1, name), ...number(3, value), ...number(20, INT)]);

function valueInfo(field: number, name: string, rank: number): number[] {
  const shape = Array.from({ length: rank }, (_, i) => bytes(1, text(2, `${name}${i}`))).flat();
  return bytes(field, [...text(1, name), ...bytes(2, bytes(1, [...number(1, FLOAT), ...bytes(2, shape)]))]);
}

/** An ONNX model of one node, with inputs a and b and output y. */
export function oneNodeModel(op: PeerOp & { readonly kind: 'matmul' | 'conv2d' }, rank: number): Uint8Array {
  const conv = op.kind === 'conv2d';
  const gemm = !conv && rank === 2;
  const node = [
    ...text(1, 'a'),
    ...text(1, 'b'),
    ...text(2, 'y'),
    ...text(4, conv ? 'Conv' : gemm ? 'Gemm' : 'MatMul'),
    ...(conv
      ? [
          ...integers('strides', [op.stride, op.stride]),
          ...integers('pads', [op.padding, op.padding, op.padding, op.padding]),
        ]
      : []),
    ...(!conv && gemm
      ? [...integer('transA', op.transposeA ? 1 : 0), ...integer('transB', op.transposeB ? 1 : 0)]
      : []),
  ];
  const graph = [
    ...bytes(1, node),
    ...text(2, 'one'),
    ...valueInfo(11, 'a', rank),
    ...valueInfo(11, 'b', rank),
    ...valueInfo(12, 'y', rank),
  ];
  return Uint8Array.from([...number(1, IR_VERSION), ...bytes(7, graph), ...bytes(8, number(2, OPSET))]);
}

/** Opens onnxruntime. It has no nodes for gradients, and none for batched products with transposed operands. */
export function openOnnx(): Peer {
  const ort = loadPeer<Ort>('onnxruntime-node');
  const name = 'onnxruntime';
  return {
    name,
    job: ({ peer }, inputs, _, part) => {
      if (part !== 'forward' || (peer?.kind !== 'matmul' && peer?.kind !== 'conv2d')) return null;
      const [a, b] = Object.values(inputs);
      const rank = a.shape.length;
      const conv = peer.kind === 'conv2d';
      if (peer.kind === 'matmul' && rank > 2 && (peer.transposeA || peer.transposeB)) return null;
      const feeds = conv
        ? {
            a: new ort.Tensor('float32', channelsFirst(a.data, a.shape), [
              a.shape[0],
              a.shape[3],
              a.shape[1],
              a.shape[2],
            ]),
            b: new ort.Tensor('float32', outputsFirst(b.data, b.shape), [
              b.shape[3],
              b.shape[2],
              b.shape[0],
              b.shape[1],
            ]),
          }
        : { a: new ort.Tensor('float32', a.data, a.shape), b: new ort.Tensor('float32', b.data, b.shape) };
      const session = ort.InferenceSession.create(oneNodeModel(peer, rank), SESSION);
      const launch = async (): Promise<OrtTensor> => (await (await session).run(feeds)).y;
      return {
        name,
        run: async (times) => {
          for (let i = 0; i < times; i++) await settleSleeping(launch());
        },
        values: async () => {
          const { data, dims } = await launch();
          return conv ? channelsLast(data, dims) : data;
        },
        dispose: () => undefined,
      };
    },
  };
}
