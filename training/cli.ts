/** The command line: one program with subcommands, each an npm script. Errors of input are one line and exit code 2. */
import { WeightsError } from '../engine/index.ts';
import { InputError } from './core/errors.ts';

const HELP = `Dynamic Sparse R-CNN on WebGPU

  npm run train         train on a data set, or on the embedded one; evaluate, save, draw
  npm run evaluate      measure weights on a split of a data set
  npm run predict       detect objects on images
  npm run export        weights as files for PyTorch and Detectron2
  npm run coco-eval     COCO's metrics of a results file; needs no GPU
  npm run ablation      the paper's ablation at small scale, several seeds: a table and a plot
  npm run tune          measures which variants of the kernels are the fastest on this machine, and keeps the choice
  npm run doctor        what this machine offers, and whether it works
  npm run setup         installs packages and chooses a driver; all others run it first

Each takes options after \`--\`, and explains itself with \`-- --help\`.
`;

const COMMANDS: Record<string, (argv: string[]) => Promise<number>> = {
  train: async (argv) => (await import('./commands/train.ts')).runTrain(argv),
  evaluate: async (argv) => (await import('./commands/evaluate.ts')).runEvaluate(argv),
  predict: async (argv) => (await import('./commands/predict.ts')).runPredict(argv),
  export: async (argv) => (await import('./commands/export.ts')).runExport(argv),
  'coco-eval': async (argv) => (await import('./commands/coco-eval.ts')).runCocoEval(argv),
  ablation: async (argv) => (await import('./commands/ablation.ts')).runAblation(argv),
  tune: async (argv) => (await import('./commands/tune.ts')).runTune(argv),
  doctor: async (argv) => (await import('./commands/doctor.ts')).runDoctor(argv),
};

async function main([command = '--help', ...argv]: string[]): Promise<number> {
  if (command === '--help' || command === '-h') {
    process.stdout.write(HELP);
    return 0;
  }
  if (!Object.hasOwn(COMMANDS, command))
    throw new InputError(`${command}: no such command; there are ${Object.keys(COMMANDS).join(', ')}`);
  return COMMANDS[command](argv);
}

/** What is no fault of the program, by its message: nobody is helped by a stack. */
const CIRCUMSTANCES: readonly (readonly [pattern: RegExp, advice: string | null])[] = [
  [/no WebGPU adapter|DSRCNN_(DRIVER|ROBUSTNESS)|LP_NATIVE_VECTOR_WIDTH|npm run setup/, null],
  [/GPU device was lost/, 'the driver gave up or was reset; a training continues from its last checkpoint by --resume'],
  [
    /out of memory|OUT_OF_(DEVICE|HOST)_MEMORY|allocation failed|Invalid (typed )?array length|does not fit a buffer of this device|Failed to allocate/i,
    'not enough memory: a smaller batch, smaller images, fewer proposals or a smaller model need less',
  ],
];

/** The exit code of an error, and what to print of it; null where it is a fault of the program, whose stack is wanted. */
function explain(error: unknown): { readonly code: number; readonly text: string } | null {
  if (!(error instanceof Error)) return null;
  if (error instanceof InputError || error instanceof WeightsError) return { code: 2, text: error.message };
  // Of the file system, naming the path: a folder that cannot be written, a full disk.
  if ('syscall' in error && 'code' in error) return { code: 2, text: error.message };
  const circumstance = CIRCUMSTANCES.find(([pattern]) => pattern.test(error.message));
  return circumstance
    ? { code: 1, text: circumstance[1] === null ? error.message : `${error.message}\n${circumstance[1]}` }
    : null;
}

// Whoever read the output has gone (`| head`): a training, which would go on unseen, saves and stops; everything else finishes what it writes.
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
