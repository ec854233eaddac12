/** The command line: one program with subcommands, each an npm script. Errors of input are one line and exit code 2. */
import { WeightsError } from '../engine/index.ts';
import { InputError } from './errors.ts';

const HELP = `Dynamic Sparse R-CNN on WebGPU

  npm run train         train on a data set, or on the embedded one; evaluate, save, draw
  npm run evaluate      measure weights on a split of a data set
  npm run predict       detect objects on images
  npm run export        weights as files for PyTorch and Detectron2
  npm run coco-eval     COCO's metrics of a results file; needs no GPU
  npm run ablation      the paper's ablation at small scale, several seeds: a table and a plot
  npm run doctor        what this machine offers, and whether it works

Each takes options after \`--\`, and explains itself with \`-- --help\`.
`;

const COMMANDS: Record<string, (argv: string[]) => Promise<number>> = {
  train: async (argv) => (await import('./train.ts')).runTrain(argv),
  evaluate: async (argv) => (await import('./evaluate.ts')).runEvaluate(argv),
  predict: async (argv) => (await import('./predict.ts')).runPredict(argv),
  export: async (argv) => (await import('./export.ts')).runExport(argv),
  'coco-eval': async (argv) => (await import('./coco-eval.ts')).runCocoEval(argv),
  ablation: async (argv) => (await import('./ablation.ts')).runAblation(argv),
  doctor: async (argv) => (await import('./doctor.ts')).runDoctor(argv),
};

async function main([command = '--help', ...argv]: string[]): Promise<number> {
  if (command === '--help' || command === '-h') {
    process.stdout.write(HELP);
    return 0;
  }
  if (!Object.hasOwn(COMMANDS, command)) throw new InputError(`${command}: no such command; there are ${Object.keys(COMMANDS).join(', ')}`);
  return COMMANDS[command](argv);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof InputError) && !(error instanceof WeightsError)) throw error;
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 2;
}
