/** The rows of a case that is an op: its forward pass, its gradients, and all of them together. */
import { backward, type Device, type Tensor } from '../engine/index.ts';
import { checkedIndices, type Inputs, type OpCase, partOf, type Row, TOGETHER, upstreamOf } from './case.ts';
import { largestError } from './measure.ts';
import type { Entry, HostArray, Reference } from './references/reference.ts';

/** Values that all rows of a case share: inputs on the device, upstream gradients and expected results. */
interface Prepared {
  readonly device: Device;
  readonly benchCase: OpCase;
  readonly host: Inputs;
  readonly tensors: Readonly<Record<string, Tensor>>;
  /** The upstream gradient for timing. */
  readonly upstream: Tensor;
  /** The upstream gradient for checks: zero outside the checked blocks. */
  readonly checkedUpstream: () => Tensor;
  readonly expected: Reference;
}

/**
 * Uploads the inputs of a case and makes its rows.
 * @param together adds a row for the forward pass and all gradients together
 */
export function prepareOp(device: Device, benchCase: OpCase, host: Inputs, together = false): Row[] {
  const prepared = upload(device, benchCase, host);
  const forward = forwardRow(prepared);
  const { gradients } = benchCase;
  const rows = gradients.map((part): Row => {
    const leaves = leavesOf(prepared, part.wrt);
    const output = device.keep(benchCase.run(leaves));
    return gradientRow(prepared, part.wrt, leaves, {
      part: partOf(part),
      flops: part.flops,
      bytes: bytesOf(host, [...(part.reads ?? Object.keys(host)), ...part.wrt]) + 4 * prepared.upstream.size,
      launch: (upstream) => backward(output, upstream),
    });
  });
  if (!together || gradients.length === 0) return [forward, ...rows];
  const wrt = gradients.flatMap((part) => part.wrt);
  const leaves = leavesOf(prepared, wrt);
  const all = gradientRow(prepared, wrt, leaves, {
    part: TOGETHER,
    flops: rows.reduce((sum, row) => sum + row.flops, benchCase.flops),
    bytes: rows.reduce((sum, row) => sum + row.bytes, forward.bytes),
    launch: (upstream) => device.scope(() => backward(benchCase.run(leaves), upstream)),
  });
  return [forward, ...rows, all];
}

function upload(device: Device, benchCase: OpCase, host: Inputs): Prepared {
  const { run, reference, blocks } = benchCase;
  const tensors = Object.fromEntries(
    Object.entries(host).map(([name, { data, shape }]) => [name, device.keep(device.tensor(data, shape))]),
  );
  const outputShape = device.noGrad(() => device.scope(() => run(tensors).shape));
  const values = upstreamOf(outputShape);
  const upstream = device.keep(device.tensor(values.data, outputShape));
  // Some inputs belong to all blocks, such as gamma. With zeros outside the checked blocks, their gradients are sums
  // over the checked blocks only.
  const masked: HostArray = blocks ? { shape: outputShape, data: values.data.slice() } : values;
  if (blocks) {
    const each = values.data.length / blocks.axis;
    for (let entry = 0; entry < blocks.axis; entry++)
      if (!blocks.checked.includes(entry)) masked.data.fill(0, entry * each, (entry + 1) * each);
  }
  return {
    device,
    benchCase,
    host,
    tensors,
    upstream,
    checkedUpstream: () => (blocks ? device.tensor(masked.data, outputShape) : upstream),
    expected: reference(host, masked, blocks?.checked ?? []),
  };
}

const bytesOf = (host: Inputs, names: readonly string[]): number =>
  names.reduce((sum, name) => sum + 4 * host[name].data.length, 0);

async function errorOf(benchCase: OpCase, tensor: Tensor, entry: Entry): Promise<number> {
  const indices = checkedIndices(benchCase, tensor.shape);
  const values = await tensor.read();
  return largestError(
    indices.map((i) => values[i]),
    indices.map(entry),
  );
}

function forwardRow({ device, benchCase, host, tensors, upstream, expected }: Prepared): Row {
  const { op, shape, flops, run } = benchCase;
  return {
    op,
    shape,
    part: 'forward',
    flops,
    bytes: bytesOf(host, Object.keys(host)) + 4 * upstream.size,
    launch: () => {
      device.forgetOperands();
      device.noGrad(() =>
        device.scope(() => {
          run(tensors);
        }),
      );
    },
    check: async () => {
      const output = device.noGrad(() => device.scope(() => device.keep(run(tensors))));
      const error = await errorOf(benchCase, output, expected.output);
      output.dispose();
      return error;
    },
  };
}

/** Aliases of the inputs. Those in `wrt` require gradients. */
function leavesOf({ device, tensors }: Prepared, wrt: readonly string[]): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      const leaf = device.keep(device.alias(tensor, tensor.shape));
      leaf.requiresGrad = wrt.includes(name);
      return [name, leaf];
    }),
  );
}

/** A row that computes the gradients with respect to `wrt`. `launch` adds them to the leaves. */
function gradientRow(
  { device, benchCase, upstream, checkedUpstream, expected }: Prepared,
  wrt: readonly string[],
  leaves: Readonly<Record<string, Tensor>>,
  row: Pick<Row, 'part' | 'flops' | 'bytes'> & { readonly launch: (upstream: Tensor) => void },
): Row {
  const { op, shape } = benchCase;
  return {
    op,
    shape,
    part: row.part,
    flops: row.flops,
    bytes: row.bytes,
    launch: () => {
      device.forgetOperands();
      row.launch(upstream);
      for (const name of wrt) leaves[name].zeroGrad();
    },
    check: async () => {
      device.scope(() => row.launch(checkedUpstream()));
      let worst = 0;
      for (const name of wrt) {
        const { grad } = leaves[name];
        if (!grad) throw new Error(`${op}: expected a gradient with respect to ${name}, got none`);
        worst = Math.max(worst, await errorOf(benchCase, grad, expected.gradients[name]));
        leaves[name].zeroGrad();
      }
      return worst;
    },
  };
}
