/** The `export` command: weights of this project as files that PyTorch and Detectron2 load. */
import { mkdirSync } from 'node:fs';
import { dirname, extname, resolve } from 'node:path';
import {
  writeDetectron2Pickle,
  writeSafetensors,
  writeTorchZip,
  type CheckpointFile,
  type CheckpointTensor,
} from '../../engine/index.ts';
import { byOurNames, exportNames } from '../../model/index.ts';
import { readAnyWeights, skippedIn } from '../checkpoints/load-weights.ts';
import {
  inferenceConfigOf,
  publicNames,
  publicWeightsNamed,
  type PublicWeights,
} from '../checkpoints/public-weights.ts';
import { OWN_METADATA, toMetadata, weightsErrorsAsInput } from '../checkpoints/weights-file.ts';
import { InputError } from '../core/errors.ts';
import { COCO_CATEGORY_IDS, COCO_CLASS_NAMES } from '../data/coco-classes.ts';
import { loadConfig } from '../data/config-file.ts';
import { writeFileAtomic } from '../data/files.ts';
import { parseArguments } from './arguments.ts';
import { weightsFile } from './weights-option.ts';

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

  npm run export -- --weights FILE|NAME --out FILE.pth

  --weights FILE  weights of this project (runs/.../best.safetensors), or a file with Detectron2's names
                  in any format that train reads; or a name, whose file is downloaded once and gets Detectron2's names:
                  ${publicNames()}
  --out FILE      the ending decides the format:
                  .pth: torch.load of PyTorch >= 1.6 gives {"model": tensors by Detectron2's names, ...};
                  .pkl: Python's pickle of {"model": numpy arrays, "__author__": ...}, as in Detectron2's model zoo;
                  .safetensors
  --help          print this text

The file also contains configuration and class names. evaluate and predict read it without further options.
The code of Sparse R-CNN has other bounds for box deltas than mmdetection's files were trained with: there, the boxes
of an exported sparse-rcnn file can differ where a stage changes a side more than 62 times.
`;

/** A file of public weights by this project's names. A detector gets the configuration and the class names. */
function withDescription(file: CheckpointFile, named: PublicWeights): CheckpointFile {
  const { tensors, others, counters } = byOurNames(file.tensors);
  const skipped = [
    ...file.skipped,
    ...others.map((name) => ({ name, reason: 'no counterpart in Detectron2' })),
    ...(counters > 0 ? [{ name: `${counters} counters (num_batches_tracked)`, reason: 'not needed' }] : []),
  ];
  if (named.content === 'backbone') return { ...file, tensors, skipped, metadata: {} };
  const { config } = loadConfig(inferenceConfigOf(named));
  const description = { config, classNames: COCO_CLASS_NAMES, categoryIds: COCO_CATEGORY_IDS, iteration: 0 };
  return { ...file, tensors, skipped, metadata: toMetadata(description) };
}

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
  const { out } = values;
  if (values.weights === undefined) throw new InputError('export: --weights: expected a file, got nothing');
  if (out === undefined)
    throw new InputError(`export: --out: expected a file that ends in one of ${ENDINGS}, got nothing`);
  const ending = extname(out).toLowerCase();
  if (!Object.hasOwn(WRITERS, ending))
    throw new InputError(`export: --out: expected a name that ends in one of ${ENDINGS}, got ${out}`);
  if (resolve(out) === resolve(values.weights))
    throw new InputError(`export: --out: expected another file than --weights, got ${out}`);
  const named = publicWeightsNamed(values.weights);
  const { path: weights } = await weightsFile(values.weights, named);
  if (resolve(out) === resolve(weights))
    throw new InputError(`export: --out: expected another file than that of --weights, got ${out}`);
  const read = readAnyWeights(weights);
  const file = named ? withDescription(read, named) : read;
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
