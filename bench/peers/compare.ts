/**
 * Our kernels beside other engines on the same adapter, in the same process and in interleaved rounds; the ratios, and
 * the targets that they must reach.
 */
import { errorMessage } from '../../engine/core/errors.ts';
import { openDevice } from '../../engine/node/index.ts';
import { InputError } from '../../training/core/errors.ts';
import { checkedIndices, gradientPart, type OpCase, TOGETHER, TOLERANCE, upstreamOf } from '../case.ts';
import { benchCases } from '../cases.ts';
import { capturedJob, eagerJob } from '../jobs.ts';
import { largestError, medianRatio, sampleInterleaved, summarize, type Timing } from '../measure.ts';
import { checkRow, type MicroOptions, spread } from '../micro.ts';
import { prepareOp } from '../op-rows.ts';
import { digits, type Adapter, type AdapterKind, type Report } from '../output.ts';
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
  /** Why there is no timing, or that the values are wrong. */
  readonly note: string | null;
}

/** `timing` is that of replays, because jax-js runs jitted functions. All ratios refer to it. */
export interface PeerRow extends Omit<MicroRow, 'bytes'> {
  /** Our time without capture. */
  readonly eager: Timing;
  readonly peers: readonly PeerResult[];
}

/** The required ratio of a row. It is at least 1: no row may be slower than an engine on the same adapter. */
export function targetOf(
  adapter: AdapterKind,
  peer: string,
  { preset, op, part }: Pick<PeerRow, 'preset' | 'op' | 'part'>,
  batched: boolean,
): number | null {
  if (peer !== 'tfjs' && peer !== 'jax-js') return null;
  if (preset !== 'paper' || op === 'sum' || adapter === 'other') return 1;
  const rows = op === 'layer norm' || op === 'softmax';
  if (adapter === 'swiftshader') return peer === 'jax-js' ? 2.5 : part === 'forward' ? 8 : 5;
  if (rows) return peer === 'jax-js' ? 5 : 1;
  if (batched || op === 'dynamic interaction') return 5;
  return peer === 'tfjs' ? 8 : 6;
}

/** `met`, or the missed targets; SLOWER in capitals if a peer is faster than we are. */
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
export async function comparePeers(adapter: AdapterKind, { only, rounds, log }: MicroOptions): Promise<PeerRow[]> {
  // Our device first: it applies the choice of the driver, which also holds for the peers' instance of Dawn.
  const first = await openDevice();
  const results: PeerRow[] = [];
  try {
    const peers = await openPeers(log);
    for (const { preset, benchCase } of benchCases()) {
      if (benchCase.kind !== 'op') continue;
      const parts = partsOf(benchCase).filter((part) => only === null || only.test(rowText(preset, benchCase, part)));
      if (parts.length > 0) results.push(...(await compareCase(adapter, preset, benchCase, parts, peers, rounds, log)));
    }
  } finally {
    first.destroy();
  }
  return results;
}

async function compareCase(
  adapter: AdapterKind,
  preset: MicroRow['preset'],
  benchCase: OpCase,
  parts: readonly string[],
  peers: readonly Peer[],
  rounds: number,
  log: (line: string) => void,
): Promise<PeerRow[]> {
  const device = await openDevice();
  try {
    const host = benchCase.inputs();
    const rows = prepareOp(device, benchCase, host, true);
    const tensors = Object.fromEntries(
      Object.entries(host).map(([name, { data, shape }]) => [name, device.keep(device.tensor(data, shape))]),
    );
    const upstream = upstreamOf(device.noGrad(() => device.scope(() => benchCase.run(tensors).shape)));
    const reference = benchCase.reference(host, upstream, benchCase.blocks?.checked ?? []);
    const names = Object.keys(host);
    const results: PeerRow[] = [];
    for (const part of parts) {
      const row = rows.find((candidate) => candidate.part === part);
      if (!row) throw new Error(`${benchCase.op}: expected a row ${part}, got none`);
      const input = names.find((name) => gradientPart(name) === part) ?? names[0];
      const [entry, shape] =
        part === 'forward' ? [reference.output, upstream.shape] : [reference.gradients[input], host[input].shape];
      const indices = checkedIndices(benchCase, shape);
      const expected = indices.map(entry);
      const { error, status } = await checkRow(row);

      const jobs: PeerJob[] = [];
      const notes = new Map<string, string>();
      for (const peer of peers) {
        try {
          const job = peer.job(benchCase, host, upstream, part);
          if (!job) continue;
          const values = await job.values();
          const off =
            values.length < Math.max(...indices) + 1
              ? Infinity
              : largestError(
                  indices.map((i) => values[i]),
                  expected,
                );
          if (!(off <= TOLERANCE)) notes.set(peer.name, `wrong (error ${off.toExponential(1)})`);
          jobs.push(job);
        } catch (failure) {
          notes.set(peer.name, `failed: ${messageOf(failure)}`);
        }
      }
      const captured = capturedJob(device, row);
      const [ours, eager, ...theirs] = await sampleInterleaved([captured, eagerJob(device, row), ...jobs], { rounds });
      captured.dispose();
      const found = peers.flatMap(({ name }): PeerResult[] => {
        const at = jobs.findIndex((job) => job.name === name);
        const note = notes.get(name) ?? null;
        if (at < 0) return note === null ? [] : [{ name, timing: null, ratio: null, target: null, note }];
        const target = targetOf(
          adapter,
          name,
          { preset, op: benchCase.op, part },
          benchCase.peer?.kind === 'matmul' && upstream.shape.length > 2,
        );
        return [{ name, timing: summarize(theirs[at]), ratio: medianRatio(ours, theirs[at]), target, note }];
      });
      for (const job of jobs) job.dispose();
      const result: PeerRow = {
        preset,
        op: benchCase.op,
        shape: benchCase.shape,
        part,
        flops: row.flops,
        error,
        status,
        timing: summarize(ours),
        eager: summarize(eager),
        peers: found,
      };
      results.push(result);
      log(
        `${result.op} ${result.shape}, ${part}: ${result.timing.median.toPrecision(3)} ms` +
          `${status === 'ok' ? '' : ' WRONG'}; ${found.map(peerText).join(', ')}; ${verdict(found)}`,
      );
    }
    return results;
  } finally {
    device.destroy();
  }
}

const peerText = ({ name, ratio, note }: PeerResult): string =>
  `${name} ${ratio === null ? '' : `x${ratio.toFixed(2)}`}${note ? ` ${note}` : ''}`;

/** The comparison as a report. */
export async function peersReport(
  run: MicroOptions & { readonly adapter: Adapter; readonly command: string },
): Promise<{ report: Report; wrong: number }> {
  const rows = await comparePeers(run.adapter.kind, run);
  if (rows.length === 0) throw new InputError(noRow(run.only));
  const names = [...new Set(rows.flatMap(({ peers }) => peers.map(({ name }) => name)))];
  const header = [
    'op',
    'shape',
    'part',
    'ms',
    'quartiles',
    'eager ms',
    'GFLOP/s',
    ...names.flatMap((name) => [`${name} ms`, 'ratio', ...(name === 'onnxruntime' ? [] : ['needed'])]),
    'targets',
  ];
  const cells = (row: PeerRow): string[] =>
    names.flatMap((name) => {
      const peer = row.peers.find((candidate) => candidate.name === name);
      const needed = name === 'onnxruntime' ? [] : [peer?.target ? digits(peer.target) : '-'];
      if (!peer?.timing || peer.ratio === null) return [peer?.note ?? '-', '-', ...needed];
      return [`${digits(peer.timing.median)}${peer.note ? ` (${peer.note})` : ''}`, digits(peer.ratio), ...needed];
    });
  const verdicts = rows.map(({ status, peers }) => (status === 'ok' ? verdict(peers) : 'WRONG'));
  const met = verdicts.filter((text) => text === 'met').length;
  const slower = verdicts.filter((text) => text.startsWith('SLOWER')).length;
  const tables = (['paper', 'small'] as const)
    .map((preset) => ({
      caption: preset === 'paper' ? 'Round sizes, and the paper-r50 preset:' : 'The small preset:',
      header,
      rows: rows.flatMap((row, i) =>
        row.preset === preset
          ? [
              [
                row.op,
                row.shape,
                row.part,
                digits(row.timing.median),
                spread(row.timing),
                digits(row.eager.median),
                digits(gigaflops(row)),
                ...cells(row),
                verdicts[i],
              ],
            ]
          : [],
      ),
    }))
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
      title: `Beside other engines on ${run.adapter.name}`,
      command: run.command,
      notes,
      tables,
      data: { versions: peerVersions(), rows },
    },
    wrong: rows.filter(({ status }) => status !== 'ok').length,
  };
}
