/** The benchmark of single kernels: each case is compared with float64 on the host, then its rows are timed. */
import { writeFileSync } from 'node:fs';
import type { Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { InputError } from '../training/core/errors.ts';
import { prepareAdamW } from './adamw-row.ts';
import { type BenchCase, partsOf, type Row, TOLERANCE } from './case.ts';
import { benchCases } from './cases.ts';
import { eagerJob } from './jobs.ts';
import { sampleInterleaved, summarize } from './measure.ts';
import { prepareOp } from './op-rows.ts';
import { digits, quartiles, type Adapter, type Report } from './output.ts';
import { measureRoof } from './roofline.ts';
import { rooflineSvg } from './roofline-chart.ts';
import { gigabytes, gigaflops, type MicroRow, noRow, rowText } from './rows.ts';

/** Checks a row. NaN and errors above the tolerance are WRONG. */
export async function checkRow({ check }: Pick<Row, 'check'>): Promise<{ error: number; status: MicroRow['status'] }> {
  const error = await check();
  return { error, status: error <= TOLERANCE ? 'ok' : 'WRONG' };
}

export interface MicroOptions {
  readonly only: RegExp | null;
  readonly rounds: number;
  readonly log: (line: string) => void;
}

/**
 * Uploads a case's inputs and makes its rows. Use a device for this case alone: it keeps the graphs of the forward
 * passes until it is destroyed.
 */
export function prepare(device: Device, benchCase: BenchCase): Row[] {
  return benchCase.kind === 'op' ? prepareOp(device, benchCase, benchCase.inputs()) : [prepareAdamW(device, benchCase)];
}

/** Runs `body` with a new device for a case. Destroying the device frees the graphs of the case. */
async function withCase<T>(
  benchCase: BenchCase,
  body: (device: Device, rows: readonly Row[]) => Promise<T>,
): Promise<T> {
  const device = await openDevice();
  try {
    return await body(device, prepare(device, benchCase));
  } finally {
    device.destroy();
  }
}

/** Measures all rows that match `only`. */
async function runMicro({ only, rounds, log }: MicroOptions): Promise<MicroRow[]> {
  const results: MicroRow[] = [];
  for (const { preset, benchCase } of benchCases()) {
    if (only && !partsOf(benchCase).some((part) => only.test(rowText(preset, benchCase, part)))) continue;
    await withCase(benchCase, async (device, all) => {
      const rows = all.filter(({ part }) => only === null || only.test(rowText(preset, benchCase, part)));
      const checks: Awaited<ReturnType<typeof checkRow>>[] = [];
      for (const row of rows) checks.push(await checkRow(row));
      const samples = await sampleInterleaved(
        rows.map((row) => eagerJob(device, row)),
        { rounds },
      );
      rows.forEach(({ op, shape, part, flops, bytes }, i) => {
        const row: MicroRow = { preset, op, shape, part, flops, bytes, ...checks[i], timing: summarize(samples[i]) };
        results.push(row);
        const wrong = row.status === 'ok' ? '' : `, WRONG (error ${row.error.toExponential(1)})`;
        const rate = gigaflops(row).toPrecision(3);
        log(`${op} ${shape}, ${part}: ${row.timing.median.toPrecision(3)} ms, ${rate} GFLOP/s${wrong}`);
      });
    });
  }
  return results;
}

/** The benchmark as a report; draws the roofline if `run.roofline` names a file. */
export async function microReport(
  run: MicroOptions & { readonly roofline?: string; readonly adapter: Adapter; readonly command: string },
): Promise<{ report: Report; wrong: number }> {
  const rows = await runMicro(run);
  if (rows.length === 0) throw new InputError(noRow(run.only));
  const notes = [
    'dx: the gradient with respect to x; gradients: with respect to all inputs. ms: median of the rounds, with ' +
      'quartiles. GFLOP/s and GB/s: the minimum of operations and bytes of the op (each value moved once) over time. ' +
      'The operations of norms, softmax, RoIAlign and AdamW are nominal, one for each + - * / max exp sqrt. ' +
      'Error: the largest of the checked entries, relative to the root mean square of the float64 values.',
  ];
  let roof = null;
  if (run.roofline !== undefined) {
    run.log('roofline: multiply-adds in registers, and copies');
    const device = await openDevice();
    roof = await measureRoof(device, run.rounds);
    device.destroy();
    writeFileSync(run.roofline, rooflineSvg(rows, roof, run.adapter.name));
    notes.push(
      `Roofs: ${digits(roof.gigaflops)} GFLOP/s (${roof.computeForm}), ${digits(roof.gigabytes)} GB/s ` +
        `(${roof.copyForm}, read and written); drawn in ${run.roofline}.`,
    );
  }
  const header = ['op', 'shape', 'part', 'ms', 'quartiles', 'GFLOP/s', 'GB/s', 'error', 'status'];
  const tables = (['paper', 'small'] as const)
    .map((preset) => ({
      caption:
        preset === 'paper'
          ? 'Round sizes, and the paper-r50 preset for an image of 480 x 640:'
          : 'The small preset, 8 images of 96 x 96:',
      header,
      rows: rows
        .filter((row) => row.preset === preset)
        .map((row) => [
          row.op,
          row.shape,
          row.part,
          digits(row.timing.median),
          quartiles(row.timing),
          digits(gigaflops(row)),
          digits(gigabytes(row)),
          row.error.toExponential(1),
          row.status,
        ]),
    }))
    .filter((table) => table.rows.length > 0);
  return {
    report: {
      name: 'kernels',
      title: `Kernels on ${run.adapter.name}`,
      command: run.command,
      notes,
      tables,
      data: { roof, rows },
    },
    wrong: rows.filter(({ status }) => status !== 'ok').length,
  };
}
