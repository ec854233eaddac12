/**
 * Our kernels compared with other engines on the same adapter, in the same process and in interleaved rounds. The
 * report has the ratios of the times, and the targets that they must reach.
 */
import { errorMessage } from '../../engine/core/errors.ts';
import type { Device } from '../../engine/index.ts';
import { openDevice } from '../../engine/node/index.ts';
import { InputError } from '../../training/core/errors.ts';
import { checkedIndices, gradientPart, type Inputs, type OpCase, TOGETHER, TOLERANCE, upstreamOf } from '../case.ts';
import { benchCases } from '../cases.ts';
import { capturedJob, eagerJob } from '../jobs.ts';
import { largestError, medianRatio, sampleInterleaved, summarize, type Timing } from '../measure.ts';
import { checkRow, type MicroOptions } from '../micro.ts';
import { prepareOp } from '../op-rows.ts';
import { digits, quartiles, type Adapter, type AdapterKind, type Report, type Table } from '../output.ts';
import type { HostArray, Reference } from '../references/reference.ts';
import { gigaflops, type MicroRow, noRow, rowText } from '../rows.ts';
import { installPeers, peerVersions } from './install.ts';
import { openJax } from './jax.ts';
import { openOnnx } from './onnx.ts';
import { type Peer, type PeerJob, pretendBrowser } from './peer.ts';
import { openTfjs } from './tfjs.ts';

export interface PeerResult {
  readonly name: string;
  readonly timing: Timing | null;
  /** The peer's time divided by ours: the median of the rounds' ratios. */
  readonly ratio: number | null;
  /** Required ratio; null without a requirement. */
  readonly target: number | null;
  /** The reason for a missing timing, or a message about wrong values. */
  readonly note: string | null;
}

/** `timing` is the time of a replay, because jax-js runs jitted functions. All ratios refer to this time. */
interface PeerRow extends Omit<MicroRow, 'bytes'> {
  /** Our time without capture. */
  readonly eager: Timing;
  readonly peers: readonly PeerResult[];
}

/**
 * The required ratio of a row. It is at least 1: no row may be slower than an engine on the same adapter.
 * @param batched whether the row is a product of batches of matrices
 */
export function targetOf(
  adapter: AdapterKind,
  peer: string,
  { preset, op, part }: Pick<PeerRow, 'preset' | 'op' | 'part'>,
  batched: boolean,
): number | null {
  if (peer !== 'tfjs' && peer !== 'jax-js') return null;
  if (preset !== 'paper' || op === 'sum' || adapter === 'other') return 1;
  const rowWise = op === 'layer norm' || op === 'softmax';
  if (adapter === 'swiftshader') return peer === 'jax-js' ? 2.5 : part === 'forward' ? 8 : 5;
  if (rowWise) return peer === 'jax-js' ? 5 : 1;
  if (batched || op === 'dynamic interaction') return 5;
  return peer === 'tfjs' ? 8 : 6;
}

/** `met`, or the peers whose targets are missed; SLOWER in capitals if a peer is faster than we are. */
export function verdict(peers: readonly PeerResult[]): string {
  const missed = peers.filter(({ ratio, target }) => ratio !== null && target !== null && ratio < target);
  const slower = missed.filter(({ ratio }) => ratio !== null && ratio < 1).map(({ name }) => name);
  if (slower.length > 0) return `SLOWER than ${slower.join(', ')}`;
  return missed.length > 0 ? `missed (${missed.map(({ name }) => name).join(', ')})` : 'met';
}

/** The parts that peers measure. Gradients of convolutions are separate parts, because peers have separate kernels. */
function partsOf({ peer, gradients }: OpCase): string[] {
  if (!peer) return [];
  if (peer.kind === 'conv2d') return ['forward', gradientPart('x'), gradientPart('weight')];
  return peer.kind === 'matmul' || gradients.length === 0 ? ['forward'] : ['forward', TOGETHER];
}

/** Opens the peers that run here, and logs those that do not. */
async function openPeers(log: (line: string) => void): Promise<Peer[]> {
  installPeers(log);
  pretendBrowser();
  const peers: Peer[] = [];
  for (const open of [openTfjs, openJax, openOnnx]) {
    try {
      peers.push(await open());
    } catch (error) {
      log(`peers: not available: ${errorMessage(error)}`);
    }
  }
  return peers;
}

const messageOf = (error: unknown): string => errorMessage(error).replaceAll('\n', ' ').slice(0, 120);

/** Measures all rows that peers have, too, and that match `only`. */
async function comparePeers(adapter: AdapterKind, options: MicroOptions): Promise<PeerRow[]> {
  const { only, log } = options;
  // Our device opens first: it applies the choice of the driver, which also holds for the peers' instance of Dawn.
  const first = await openDevice();
  const results: PeerRow[] = [];
  try {
    const peers = await openPeers(log);
    for (const { preset, benchCase } of benchCases()) {
      if (benchCase.kind !== 'op') continue;
      const parts = partsOf(benchCase).filter((part) => only === null || only.test(rowText(preset, benchCase, part)));
      if (parts.length > 0) results.push(...(await compareCase({ adapter, preset, benchCase, parts, peers }, options)));
    }
  } finally {
    first.destroy();
  }
  return results;
}

interface Comparison {
  readonly adapter: AdapterKind;
  readonly preset: MicroRow['preset'];
  readonly benchCase: OpCase;
  readonly parts: readonly string[];
  readonly peers: readonly Peer[];
}

async function compareCase(
  { adapter, preset, benchCase, parts, peers }: Comparison,
  { rounds, log }: MicroOptions,
): Promise<PeerRow[]> {
  const { op, shape } = benchCase;
  const device = await openDevice();
  try {
    const inputs = benchCase.inputs();
    const rows = prepareOp(device, benchCase, inputs, true);
    const expected = expectedOf(device, benchCase, inputs);
    const batched = benchCase.peer?.kind === 'matmul' && expected.upstream.shape.length > 2;
    const results: PeerRow[] = [];
    for (const part of parts) {
      const row = rows.find((candidate) => candidate.part === part);
      if (!row) throw new Error(`${op}: expected a row ${part}, got none`);
      const { error, status } = await checkRow(row);
      const { jobs, notes } = await peerJobs(peers, expected, part);
      const captured = capturedJob(device, row);
      const [ours, eager, ...theirs] = await sampleInterleaved([captured, eagerJob(device, row), ...jobs], { rounds });
      captured.dispose();
      const found = peers.flatMap(({ name }): PeerResult[] => {
        const at = jobs.findIndex((job) => job.name === name);
        const note = notes.get(name) ?? null;
        if (at < 0) return note === null ? [] : [{ name, timing: null, ratio: null, target: null, note }];
        const target = targetOf(adapter, name, { preset, op, part }, batched);
        return [{ name, timing: summarize(theirs[at]), ratio: medianRatio(ours, theirs[at]), target, note }];
      });
      for (const job of jobs) job.dispose();
      const timing = summarize(ours);
      const { flops } = row;
      results.push({ preset, op, shape, part, flops, error, status, timing, eager: summarize(eager), peers: found });
      log(
        `${op} ${shape}, ${part}: ${timing.median.toPrecision(3)} ms` +
          `${status === 'ok' ? '' : ' WRONG'}; ${found.map(peerText).join(', ')}; ${verdict(found)}`,
      );
    }
    return results;
  } finally {
    device.destroy();
  }
}

/** The inputs of a case on the host, the upstream gradient, and the results that they must give. */
interface Expected {
  readonly benchCase: OpCase;
  readonly inputs: Inputs;
  readonly upstream: HostArray;
  readonly reference: Reference;
}

/** In contrast to the check of our own rows, no entries of the upstream gradient are zero. */
function expectedOf(device: Device, benchCase: OpCase, inputs: Inputs): Expected {
  const tensors = Object.fromEntries(
    Object.entries(inputs).map(([name, { data, shape }]) => [name, device.keep(device.tensor(data, shape))]),
  );
  const upstream = upstreamOf(device.noGrad(() => device.scope(() => benchCase.run(tensors).shape)));
  const reference = benchCase.reference(inputs, upstream, benchCase.blocks?.checked ?? []);
  return { benchCase, inputs, upstream, reference };
}

/** Makes and checks the peers' jobs for a part. The notes tell, by peer, which jobs failed or are wrong. */
async function peerJobs(
  peers: readonly Peer[],
  { benchCase, inputs, upstream, reference }: Expected,
  part: string,
): Promise<{ jobs: PeerJob[]; notes: ReadonlyMap<string, string> }> {
  const names = Object.keys(inputs);
  const input = names.find((name) => gradientPart(name) === part) ?? names[0];
  const [entry, shape] =
    part === 'forward' ? [reference.output, upstream.shape] : [reference.gradients[input], inputs[input].shape];
  const indices = checkedIndices(benchCase, shape);
  const expected = indices.map(entry);
  const jobs: PeerJob[] = [];
  const notes = new Map<string, string>();
  for (const peer of peers) {
    try {
      const job = peer.job(benchCase, inputs, upstream, part);
      if (!job) continue;
      const values = await job.values();
      const complete = values.length > Math.max(...indices);
      const error = complete
        ? largestError(
            indices.map((i) => values[i]),
            expected,
          )
        : Infinity;
      if (!(error <= TOLERANCE)) notes.set(peer.name, `wrong (error ${error.toExponential(1)})`);
      jobs.push(job);
    } catch (failure) {
      notes.set(peer.name, `failed: ${messageOf(failure)}`);
    }
  }
  return { jobs, notes };
}

const peerText = ({ name, ratio, note }: PeerResult): string =>
  `${name} ${ratio === null ? '' : `x${ratio.toFixed(2)}`}${note ? ` ${note}` : ''}`;

const verdictOf = ({ status, peers }: PeerRow): string => (status === 'ok' ? verdict(peers) : 'WRONG');

/** The table of a preset's rows. `names` are those of all peers that were measured. */
function peersTable(rows: readonly PeerRow[], names: readonly string[], preset: PeerRow['preset']): Table {
  const hasTarget = (name: string): boolean => name !== 'onnxruntime';
  const cells = (row: PeerRow): string[] =>
    names.flatMap((name) => {
      const peer = row.peers.find((candidate) => candidate.name === name);
      const needed = hasTarget(name) ? [peer?.target ? digits(peer.target) : '-'] : [];
      if (!peer?.timing || peer.ratio === null) return [peer?.note ?? '-', '-', ...needed];
      return [`${digits(peer.timing.median)}${peer.note ? ` (${peer.note})` : ''}`, digits(peer.ratio), ...needed];
    });
  return {
    caption: preset === 'paper' ? 'Round sizes, and the paper-r50 preset:' : 'The small preset:',
    header: [
      'op',
      'shape',
      'part',
      'ms',
      'quartiles',
      'eager ms',
      'GFLOP/s',
      ...names.flatMap((name) => [`${name} ms`, 'ratio', ...(hasTarget(name) ? ['needed'] : [])]),
      'targets',
    ],
    rows: rows.map((row) => [
      row.op,
      row.shape,
      row.part,
      digits(row.timing.median),
      quartiles(row.timing),
      digits(row.eager.median),
      digits(gigaflops(row)),
      ...cells(row),
      verdictOf(row),
    ]),
  };
}

/** The comparison as a report. */
export async function peersReport(
  run: MicroOptions & { readonly adapter: Adapter; readonly command: string },
): Promise<{ report: Report; wrong: number }> {
  const rows = await comparePeers(run.adapter.kind, run);
  if (rows.length === 0) throw new InputError(noRow(run.only));
  const names = [...new Set(rows.flatMap(({ peers }) => peers.map(({ name }) => name)))];
  const verdicts = rows.map(verdictOf);
  const met = verdicts.filter((text) => text === 'met').length;
  const slower = verdicts.filter((text) => text.startsWith('SLOWER')).length;
  const tables = (['paper', 'small'] as const)
    .map((preset) =>
      peersTable(
        rows.filter((row) => row.preset === preset),
        names,
        preset,
      ),
    )
    .filter((table) => table.rows.length > 0);
  const versions = Object.entries(peerVersions())
    .map(([name, version]) => `${name} ${version}`)
    .join(', ');
  const notes = [
    `${met} of ${rows.length} rows meet their targets; slower than a peer: ${slower}.`,
    "Ratio: the peer's time divided by ours, the median of the rounds' ratios. Needed: the ratio that the project " +
      'requires on this adapter (1: no slower). All engines run on one adapter in one process, in interleaved ' +
      'rounds, and wait by sleeping between polls; onnxruntime runs on the processor without WebGPU. ' +
      'ms: ours captured once and replayed, because jax-js is jitted and onnxruntime compiled; eager ms: ours ' +
      `without capture, as in tfjs. ${versions}. dx and dweight: the gradients of convolutions, for which tfjs ` +
      'has kernels and jax-js a jitted vjp. `forward and gradients` is the differentiation of the composed op in ' +
      'all engines.',
  ];
  return {
    report: {
      name: 'peers',
      title: `Compared with other engines on ${run.adapter.name}`,
      command: run.command,
      notes,
      tables,
      data: { versions: peerVersions(), rows },
    },
    wrong: rows.filter(({ status }) => status !== 'ok').length,
  };
}
