/** The `export` command: weights of this project as files that PyTorch and Detectron2 load. */
import { mkdirSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import { writeDetectron2Pickle, writeSafetensors, writeTorchZip, type CheckpointTensor } from '../../engine/index.ts';
import { exportNames } from '../../model/index.ts';
import { readAnyWeights, skippedIn } from '../checkpoints/load-weights.ts';
import { OWN_METADATA, weightsErrorsAsInput } from '../checkpoints/weights-file.ts';
import { InputError } from '../core/errors.ts';
import { writeFileAtomic } from '../data/files.ts';
import { parseArguments } from './arguments.ts';

type Writer = (
  tensors: ReadonlyMap<string, CheckpointTensor>,
  metadata: Readonly<Record<string, string>>,
) => Uint8Array;

const WRITERS: Readonly<Record<string, Writer>> = {
  '.safetensors': (tensors, metadata) => writeSafetensors(tensors, { format: 'pt', ...metadata }),
  '.pth': writeTorchZip,
  '.pkl': (tensors, metadata) => writeDetectron2Pickle(tensors, 'Dynamic Sparse R-CNN on WebGPU', metadata),
};
const ENDINGS = Object.keys(WRITERS).join(', ');

const HELP = `export: writes weights for PyTorch and Detectron2

  npm run export -- --weights FILE --out FILE.pth

  --weights FILE  weights of this project (runs/.../best.safetensors), or a file with Detectron2's names
                  in any format that train reads
  --out FILE      the ending decides the format:
                  .pth: torch.load of PyTorch >= 1.6 gives {"model": tensors by Detectron2's names, ...};
                  .pkl: Python's pickle of {"model": numpy arrays, "__author__": ...}, as in Detectron2's model zoo;
                  .safetensors
  --help          print this text

The file also contains configuration and class names. evaluate and predict read it without further options.
`;

/** Runs the command. Resolves to the exit code; rejects with InputError on bad arguments or files. */
export async function runExport(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('export', argv, {
    weights: { type: 'string' },
    out: { type: 'string' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { weights, out } = values;
  if (weights === undefined) throw new InputError('export: --weights: expected a file, got nothing');
  if (out === undefined)
    throw new InputError(`export: --out: expected a file that ends in one of ${ENDINGS}, got nothing`);
  const ending = extname(out).toLowerCase();
  if (!Object.hasOwn(WRITERS, ending))
    throw new InputError(`export: --out: expected a name that ends in one of ${ENDINGS}, got ${out}`);
  if (resolve(out) === resolve(weights))
    throw new InputError(`export: --out: expected another file than --weights, got ${out}`);
  const file = readAnyWeights(weights);
  const { tensors, notes } = weightsErrorsAsInput(() => exportNames(file.tensors, weights));
  const metadata = Object.fromEntries(
    OWN_METADATA.flatMap((key) => (Object.hasOwn(file.metadata, key) ? [[key, file.metadata[key]]] : [])),
  );
  const bytes = weightsErrorsAsInput(() => WRITERS[ending](tensors, metadata));
  mkdirSync(dirname(resolve(out)), { recursive: true });
  writeFileAtomic(out, bytes);
  for (const { name, reason } of skippedIn(file)) console.log(`left out  ${name}: ${reason}`);
  for (const note of notes) console.log(`note      ${note}`);
  console.log(`wrote     ${out}: ${tensors.size} tensors, ${(bytes.length / 1e6).toFixed(1)} MB`);
  return 0;
}
