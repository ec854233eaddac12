/**
 * The command line of the benchmarks: single kernels (default), kernels compared with other engines, a training step
 * by its parts, and the growth of a step. See docs/benchmarks.md.
 *
 *   npm run bench -- --help
 */
import { pathToFileURL } from 'node:url';
import { errorMessage } from '../engine/core/errors.ts';
import { openDevice } from '../engine/node/index.ts';
import { MODEL_PRESETS, type PresetName } from '../model/index.ts';
import { integerOption, parseArguments } from '../training/commands/arguments.ts';
import { InputError } from '../training/core/errors.ts';
import { adapterOf, publish, type Adapter, type Report } from './output.ts';

const HELP = `bench: measures kernels and training steps on this machine's adapter

  npm run bench -- [options]            every kernel: compared with float64, then timed forward and backward
  npm run bench -- --peers [options]    kernels compared with tfjs, jax-js and onnxruntime (installs them once, 600 MB,
                                        outside the packages of this project)
  npm run bench -- --step [options]     a training step by its parts
  npm run bench -- --scaling [options]  growth of a step's time and memory with image size, proposals, batch, objects

  --only PATTERN    kernels and peers: only rows with a preset, op, shape and part that match this regular expression,
                    for example "matmul nn", "paper conv.*dx"
  --rounds N        interleaved rounds (default 7; scaling: 5)
  --roofline FILE   kernels: also measure the peak rates of the adapter, and draw the kernels below them, as SVG
  --preset NAME     step: ${Object.keys(MODEL_PRESETS).join(', ')} (default small)
  --torch           step: also time PyTorch's step of the same configuration
                    (Debian's python3-torch, python3-torchvision, python3-scipy)
  --python FILE     step, with --torch: the Python with these packages (default /usr/bin/python3)
  --plot FILE       scaling: draw the results, as SVG
  --json FILE       write the results
  --markdown FILE   write the tables into this page; they replace those of the same benchmark and adapter
  --help            print this text

The exit code is 1 if a kernel computes wrong values. DSRCNN_DRIVER=swiftshader (or lavapipe, gpu) chooses another
adapter, as in all commands.
`;

const OPTIONS = {
  peers: { type: 'boolean' },
  step: { type: 'boolean' },
  scaling: { type: 'boolean' },
  only: { type: 'string' },
  rounds: { type: 'string' },
  roofline: { type: 'string' },
  preset: { type: 'string' },
  torch: { type: 'boolean' },
  python: { type: 'string' },
  plot: { type: 'string' },
  json: { type: 'string' },
  markdown: { type: 'string' },
  help: { type: 'boolean' },
} as const;

type Mode = 'kernels' | 'peers' | 'step' | 'scaling';

/** The modes that accept an option. All modes accept the other options. */
const MODES_OF_OPTION: Readonly<Record<string, readonly Mode[]>> = {
  only: ['kernels', 'peers'],
  roofline: ['kernels'],
  preset: ['step'],
  torch: ['step'],
  python: ['step'],
  plot: ['scaling'],
};

/** Options that name output files. The command in a report does not have them. */
const OUTPUT_OPTIONS = ['--json', '--markdown'];

export interface BenchOptions {
  readonly mode: Mode;
  readonly only: RegExp | null;
  readonly rounds: number;
  readonly roofline?: string;
  readonly preset: PresetName;
  /** The Python to run PyTorch with; null without --torch. */
  readonly python: string | null;
  readonly plot?: string;
  readonly json?: string;
  readonly markdown?: string;
  /** The command that measures the same again, without the options for output files. */
  readonly command: string;
}

const isPreset = (name: string): name is PresetName => Object.hasOwn(MODEL_PRESETS, name);

/** Reads the options; null for --help. Throws InputError for an option that is unknown, malformed or without effect. */
export function readOptions(argv: readonly string[]): BenchOptions | null {
  const { values } = parseArguments('bench', argv, OPTIONS);
  if (values.help) return null;
  const modes = (['peers', 'step', 'scaling'] as const).filter((name) => values[name]);
  if (modes.length > 1)
    throw new InputError(`bench: --${modes[0]} does not go with --${modes[1]}: one benchmark at a time`);
  const mode: Mode = modes[0] ?? 'kernels';
  for (const [name, modesOfOption] of Object.entries(MODES_OF_OPTION)) {
    if (!Object.hasOwn(values, name) || modesOfOption.includes(mode)) continue;
    const optionOf = (value: Mode): string => (value === 'kernels' ? 'the benchmark of kernels' : `--${value}`);
    throw new InputError(
      `bench: --${name} does not go with ${optionOf(mode)}, only with ${modesOfOption.map(optionOf).join(' and ')}`,
    );
  }
  const { preset = 'small' } = values;
  if (!isPreset(preset))
    throw new InputError(
      `bench: --preset: expected one of ${Object.keys(MODEL_PRESETS).join(', ')}, got ${JSON.stringify(preset)}`,
    );
  if (values.python !== undefined && !values.torch) throw new InputError('bench: --python does not go without --torch');
  for (const name of ['roofline', 'plot'] as const) {
    if (values[name] !== undefined && !values[name].endsWith('.svg'))
      throw new InputError(`bench: --${name}: expected a file that ends in .svg, got ${values[name]}`);
  }
  const rounds = integerOption('bench', 'rounds', values.rounds ?? (mode === 'scaling' ? '5' : '7'), 1);
  let only: RegExp | null = null;
  try {
    only = values.only === undefined ? null : new RegExp(values.only, 'i');
  } catch (error) {
    throw new InputError(
      `bench: --only: expected a regular expression, got ${JSON.stringify(values.only)} (${errorMessage(error)})`,
    );
  }
  const { roofline, plot, json, markdown } = values;
  const words = argv.filter(
    (word, i) => !OUTPUT_OPTIONS.some((name) => word === name || word.startsWith(`${name}=`) || argv[i - 1] === name),
  );
  const command = [
    'npm run bench',
    ...(words.length > 0 ? ['--'] : []),
    ...words.map((word) => (/^[\w./=-]+$/.test(word) ? word : JSON.stringify(word))),
  ].join(' ');
  return {
    mode,
    only,
    rounds,
    roofline,
    preset,
    python: values.torch ? (values.python ?? '/usr/bin/python3') : null,
    plot,
    json,
    markdown,
    command,
  };
}

/** The adapter that the benchmarks will use. */
async function currentAdapter(): Promise<Adapter> {
  const device = await openDevice();
  const adapter = adapterOf(device);
  device.destroy();
  return adapter;
}

type Run = BenchOptions & { readonly adapter: Adapter; readonly log: (line: string) => void };

/** Runs the benchmark of a mode. `wrong` is the number of rows with wrong values. */
async function measure(run: Run): Promise<{ report: Report; wrong: number }> {
  switch (run.mode) {
    case 'kernels':
      return (await import('./micro.ts')).microReport(run);
    case 'peers':
      return (await import('./peers/compare.ts')).peersReport(run);
    case 'step':
      return { report: await (await import('./step.ts')).stepReport(run), wrong: 0 };
    case 'scaling':
      return { report: await (await import('./scaling.ts')).scalingReport(run), wrong: 0 };
  }
}

/** Runs a benchmark; resolves to the exit code. Throws InputError on bad options. */
export async function runBench(argv: readonly string[]): Promise<number> {
  const options = readOptions(argv);
  if (options === null) {
    process.stdout.write(HELP);
    return 0;
  }
  const adapter = await currentAdapter();
  const log = (text: string): void => console.log(text);
  const subgroups = adapter.subgroupSize > 0 ? `, subgroups of ${adapter.subgroupSize}` : '';
  log(
    `${adapter.description}${subgroups}, tuning: ${adapter.tuning}, ${adapter.cores} processor cores; ` +
      `${options.rounds} ${options.rounds === 1 ? 'round' : 'rounds'}`,
  );
  const { report, wrong } = await measure({ ...options, log, adapter });
  publish(report, adapter, options);
  if (wrong > 0)
    process.stderr.write(
      `error: ${wrong} ${wrong === 1 ? 'row is' : 'rows are'} WRONG: the values differ from the float64 reference\n`,
    );
  return wrong > 0 ? 1 : 0;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    // The devices of the peers keep the process alive.
    process.exit(await runBench(process.argv.slice(2)));
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    process.exit(2);
  }
}
