/** The command line: a program with subcommands, each an npm script. Bad input gives one line and exit code 2. */
import { WeightsError } from '../engine/index.ts';
import { InputError } from './core/errors.ts';

interface Command {
  /** One line for the list of commands. */
  readonly summary: string;
  /** Resolves to the exit code. */
  readonly run: (argv: string[]) => Promise<number>;
}

/** All subcommands. The code of a command is loaded when the command runs. */
const COMMANDS: Readonly<Record<string, Command>> = {
  train: {
    summary: 'train on a data set, or on the embedded one; evaluate, save, draw',
    run: async (argv) => (await import('./commands/train.ts')).runTrain(argv),
  },
  pretrain: {
    summary: 'train on images made by formula: the weights that other trainings start from',
    run: async (argv) => (await import('./commands/pretrain.ts')).runPretrain(argv),
  },
  check: {
    summary: 'check a data set: damaged images, wrong sizes and boxes, copies, classes; needs no GPU',
    run: async (argv) => (await import('./commands/check.ts')).runCheck(argv),
  },
  evaluate: {
    summary: 'measure weights on a split of a data set',
    run: async (argv) => (await import('./commands/evaluate.ts')).runEvaluate(argv),
  },
  predict: {
    summary: 'detect objects on images',
    run: async (argv) => (await import('./commands/predict.ts')).runPredict(argv),
  },
  export: {
    summary: 'write weights as files for PyTorch and Detectron2',
    run: async (argv) => (await import('./commands/export.ts')).runExport(argv),
  },
  convert: {
    summary: 'write a data set in another format: COCO, Pascal VOC or YOLO',
    run: async (argv) => (await import('./commands/convert.ts')).runConvert(argv),
  },
  'coco-eval': {
    summary: "compute COCO's metrics of a results file; needs no GPU",
    run: async (argv) => (await import('./commands/coco-eval.ts')).runCocoEval(argv),
  },
  ablation: {
    summary: "repeat the paper's ablation at small scale, with several seeds: a table and a plot",
    run: async (argv) => (await import('./commands/ablation.ts')).runAblation(argv),
  },
  tune: {
    summary: 'measure which variants of the kernels are the fastest on this machine, and store the choice',
    run: async (argv) => (await import('./commands/tune.ts')).runTune(argv),
  },
  doctor: {
    summary: 'show what this machine offers, and test whether it works',
    run: async (argv) => (await import('./commands/doctor.ts')).runDoctor(argv),
  },
};

const SETUP_SUMMARY = 'install packages and choose a driver; all other commands run it first';

function help(): string {
  const commands = [
    ...Object.entries(COMMANDS).map(([name, { summary }]) => [name, summary]),
    ['setup', SETUP_SUMMARY],
  ];
  return [
    'Dynamic Sparse R-CNN on WebGPU',
    '',
    ...commands.map(([name, summary]) => `  npm run ${name.padEnd(13)} ${summary}`),
    '',
    'Options follow after `--`. `npm run COMMAND -- --help` explains a command.',
    '',
  ].join('\n');
}

async function main([command = '--help', ...argv]: string[]): Promise<number> {
  if (command === '--help' || command === '-h') {
    process.stdout.write(help());
    return 0;
  }
  if (!Object.hasOwn(COMMANDS, command))
    throw new InputError(
      `${command}: expected one of the commands ${Object.keys(COMMANDS).join(', ')}, got ${command}`,
    );
  return COMMANDS[command].run(argv);
}

interface ExpectedFailure {
  /** Matches the error's message. */
  readonly pattern: RegExp;
  /** Printed after the message. */
  readonly advice: string | null;
}

/** Failures that are no bugs. They are printed without a stack trace. */
const EXPECTED_FAILURES: readonly ExpectedFailure[] = [
  {
    pattern: /no WebGPU adapter|DSRCNN_(DRIVER|ROBUSTNESS)|LP_NATIVE_VECTOR_WIDTH|npm run setup/,
    advice: null,
  },
  {
    pattern: /GPU device was lost/,
    advice: 'the driver failed or was reset; --resume continues a training from its last checkpoint',
  },
  {
    pattern: new RegExp(
      [
        'out of memory',
        'OUT_OF_(DEVICE|HOST)_MEMORY',
        'allocation failed',
        'Invalid (typed )?array length',
        'does not fit a buffer of this device',
        'Failed to allocate',
      ].join('|'),
      'i',
    ),
    advice: 'not enough memory: use a smaller batch, smaller images, fewer proposals or a smaller model',
  },
];

/** Exit code and text of an error; null for a bug, which is printed with its stack trace. */
function explain(error: unknown): { readonly code: number; readonly text: string } | null {
  if (!(error instanceof Error)) return null;
  if (error instanceof InputError || error instanceof WeightsError) return { code: 2, text: error.message };
  // Errors of the file system name the path: a folder that cannot be written, a full disk.
  if ('syscall' in error && 'code' in error) return { code: 2, text: error.message };
  const failure = EXPECTED_FAILURES.find(({ pattern }) => pattern.test(error.message));
  return failure ? { code: 1, text: [error.message, failure.advice].filter((line) => line !== null).join('\n') } : null;
}

// An error of an output stream means that its reader has ended, for example `| head`. A training then saves and stops,
// because nobody sees its output. Other commands finish.
let stopping = false;
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', () => {
    if (stopping || process.listenerCount('SIGTERM') === 0) return;
    stopping = true;
    process.kill(process.pid, 'SIGTERM');
  });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const explained = explain(error);
  if (explained === null) throw error;
  process.stderr.write(`error: ${explained.text}\n`);
  process.exitCode = explained.code;
}
