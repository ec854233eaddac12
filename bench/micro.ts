/** The micro benchmark: every case checked against float64 on the host, then its rows timed in interleaved rounds. */
import { writeFileSync } from 'node:fs';
import type { Device } from '../engine/index.ts';
import { openDevice } from '../engine/node/index.ts';
import { InputError } from '../training/core/errors.ts';
import { eagerJob, partsOf, prepare, TOLERANCE, type BenchCase, type Row } from './case.ts';
import { benchCases } from './cases.ts';
import { sampleInterleaved, summarize, type Timing } from './measure.ts';
import { digits, type Adapter, type Report } from './output.ts';
import { measureRoof } from './roofline.ts';
import { rooflineSvg } from './roofline-chart.ts';
import { gigabytes, gigaflops, type MicroRow, noRow, rowText } from './rows.ts';

/** Checks a row. NaN and errors beyond the tolerance are wrong. */
export async function checkRow({ check }: Pick<Row, 'check'>): Promise<{ error: number; status: MicroRow['status'] }> {
  const error = await check();
  return { error, status: error <= TOLERANCE ? 'ok' : 'WRONG' };
}

export interface MicroOptions {
  readonly only: RegExp | null;
  readonly rounds: number;
  readonly log: (line: string) => void;
}

/** Opens a device of its own for a case: what its recorded graphs hold goes with the device. */
export async function withCase<T>(
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

/** Runs the cases of which `only` keeps a row. */
export async function runMicro({ only, rounds, log }: MicroOptions): Promise<MicroRow[]> {
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
        log(
          `${op} ${shape}, ${part}: ${row.timing.median.toPrecision(3)} ms, ${gigaflops(row).toPrecision(3)} GFLOP/s${row.status === 'ok' ? '' : `, WRONG (error ${row.error.toExponential(1)})`}`,
        );
      });
    });
  }
  return results;
}

export const spread = ({ lower, upper }: Timing): string => `${digits(lower)} .. ${digits(upper)}`;

/** The micro benchmark as a report, with the roofline drawn where asked for. */
export async function microReport(
  run: MicroOptions & { readonly roofline?: string; readonly adapter: Adapter; readonly command: string },
): Promise<{ report: Report; wrong: number }> {
  const rows = await runMicro(run);
  if (rows.length === 0) throw new InputError(noRow(run.only));
  const notes = [
    'ms: median of the rounds; quartiles beside it. GFLOP/s and GB/s: of the operations and of the bytes that the op needs at least (every value moved once); operations of norms, softmax, ' +
      'RoIAlign and AdamW are nominal, one for each + - * / max exp sqrt. Error: the largest of the checked entries, relative to the root mean square of what float64 gives.',
  ];
  let roof = null;
  if (run.roofline !== undefined) {
    run.log('roofline: multiply-adds in registers, and copies');
    const device = await openDevice();
    roof = await measureRoof(device, run.rounds);
    device.destroy();
    writeFileSync(run.roofline, rooflineSvg(rows, roof, run.adapter.name));
    notes.push(
      `Roofs: ${digits(roof.gigaflops)} GFLOP/s (${roof.computeForm}), ${digits(roof.gigabytes)} GB/s (${roof.copyForm}, read and written); drawn in ${run.roofline}.`,
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
          spread(row.timing),
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
