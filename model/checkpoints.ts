/** Fits the tensors of public checkpoints to a model, and gives our weights the names of Sparse R-CNN's code. */
import { WeightsError, type CheckpointTensor } from '../engine/index.ts';
import { rename, sourceOf, withoutPrefix, type CheckpointSource } from './checkpoint-names.ts';
import { resampleProposals } from './checkpoint-proposals.ts';
import { convertStem, type Found, type SourceFile } from './checkpoint-stem.ts';
import { PAPER_R50 } from './config.ts';

export interface NameTable {
  /** The code base whose names the file has. A plain timm ResNet has torchvision's names. */
  readonly source: CheckpointSource;
  /** `backbone`: all of the file's tensors belong to the backbone. */
  readonly scope: 'model' | 'backbone';
  /** `from`: the name in the file; null if the file implies the value (Caffe2's merged statistics). */
  readonly loaded: readonly { readonly name: string; readonly from: string | null }[];
  /** Tensors of the model that the file lacks. They keep their initial values. */
  readonly missing: readonly string[];
  /** Tensors of the file that the model lacks, by the file's names. */
  readonly unexpected: readonly string[];
  /**
   * Tensors with different shapes (another number of classes, proposals or experts). They keep their initial values.
   */
  readonly reshaped: readonly {
    readonly name: string;
    readonly expected: readonly number[];
    readonly got: readonly number[];
  }[];
  /** Sentences for the user about conversions, ignored tensors, and unknown facts. */
  readonly notes: readonly string[];
}

/** A model's names and shapes, as in PyTorch. */
type Shapes = ReadonlyMap<string, readonly number[]>;

export interface MappedWeights {
  /** By our names. The tensors may share memory with the file's. */
  readonly loaded: ReadonlyMap<string, CheckpointTensor>;
  readonly table: NameTable;
}

export interface MapNamesOptions {
  /** Allows less than half of the names to match. */
  readonly partial?: boolean;
  /** Names the source in errors. */
  readonly file?: string;
  /** Gives the proposals of a file without experts to every expert of the model. Default: they count as reshaped. */
  readonly broadcastExperts?: boolean;
  /** Fits the proposals of a file with another number of proposals. Default: they count as reshaped. */
  readonly resampleProposals?: boolean;
  /** The model's normalization of RGB images, for the conversion of a stem that was trained with another. */
  readonly pixelMean?: readonly number[];
  readonly pixelStd?: readonly number[];
}

/**
 * Variance of batch norms that are merged into scale and bias, as in Caffe2's files and Detectron2's oldest files.
 * Variance plus eps (1e-5) is 1, as in Detectron2.
 */
const MERGED_VARIANCE = 1 - 1e-5;

/**
 * Fits a checkpoint to a model by name and shape.
 *
 * Channel order: a stem that was trained on BGR images is converted to the model's RGB, if the file tells its channel
 * order. Files with Caffe2's names are always BGR. Files of Detectron2 may have `pixel_mean` among their tensors. A
 * Detectron2 file without it counts as RGB, as Sparse R-CNN and the conversions from torchvision are.
 * MSRA's ResNets also have their stride in the 1x1 convolution. Names do not show this, and weights cannot change it. A
 * note tells the user.
 * @param expected the model's names and shapes, as in PyTorch
 * @throws WeightsError if less than half of the model's tensors match in name and shape, without `partial`. For a file
 *   of a backbone, the backbone's tensors count.
 */
export function mapNames(
  tensors: ReadonlyMap<string, CheckpointTensor>,
  expected: Shapes,
  options: MapNamesOptions = {},
): MappedWeights {
  const bare = withoutPrefix(tensors);
  const source = sourceOf(bare);
  const notes: string[] = [];
  const file: SourceFile = { tensors: bare, source, notes };
  const { found, unexpected } = renameAll(file, expected, options.broadcastExperts ?? false);
  unexpected.push(...dropOtherNorms(found, file, expected));
  if (source === 'caffe2') addImpliedStatistics(found, expected, notes);
  if (source === 'timm')
    notes.push(
      "parts of timm's ResNet-D (deep stem, shortcuts after average pooling) have no counterpart here and were ignored",
    );
  if (options.resampleProposals) {
    const note = resampleProposals(found, expected);
    if (note !== null) notes.push(note);
  }
  const { pixelMean: mean = PAPER_R50.pixelMean, pixelStd: std = PAPER_R50.pixelStd } = options;
  convertStem(found, file, { mean, std });

  const loaded = new Map<string, CheckpointTensor>();
  const taken: NameTable['loaded'][number][] = [];
  const reshaped: NameTable['reshaped'][number][] = [];
  const missing: string[] = [];
  for (const [name, shape] of expected) {
    const match = found.get(name);
    if (!match) missing.push(name);
    else if (match.tensor.shape.join() !== shape.join())
      reshaped.push({ name, expected: shape, got: match.tensor.shape });
    else {
      loaded.set(name, match.tensor);
      taken.push({ name, from: match.from });
    }
  }
  const scope =
    found.size > 0 && [...found.keys()].every((name) => name.startsWith('backbone.')) ? 'backbone' : 'model';
  const table: NameTable = { source, scope, loaded: taken, missing, unexpected, reshaped, notes };
  if (!options.partial) checkMatches(table, expected, options.file ?? 'checkpoint');
  return { loaded, table };
}

/** The file's tensors by our names, and the file's names of tensors that the model lacks. */
function renameAll(
  { tensors, source, notes }: SourceFile,
  expected: Shapes,
  broadcastExperts: boolean,
): { readonly found: Found; readonly unexpected: string[] } {
  const found: Found = new Map();
  const unexpected: string[] = [];
  let counters = 0;
  for (const [name, { from, tensor }] of tensors) {
    if (name.endsWith('.num_batches_tracked')) counters++;
    else if (source === 'detectron2' && (name === 'pixel_mean' || name === 'pixel_std')) continue;
    else {
      const ours = rename(source, name, tensor);
      if (ours === null || !expected.has(ours) || found.has(ours)) unexpected.push(from);
      else {
        const fitted = reshapeProposals(ours, tensor, expected.get(ours)!, broadcastExperts);
        found.set(ours, { from, tensor: fitted });
        if (fitted.data.length > tensor.data.length)
          notes.push(`${from}: the file has no experts, each of the model's ${fitted.shape[0]} starts from its values`);
      }
    }
  }
  if (counters > 0) notes.push(`${counters} counters (num_batches_tracked) are not needed`);
  return { found, unexpected };
}

/** Throws WeightsError if less than half of the tensors in the table's scope match. */
function checkMatches(table: NameTable, expected: Shapes, file: string): void {
  const { source, scope, loaded, missing, unexpected, reshaped } = table;
  const whole =
    scope === 'model' ? expected.size : [...expected.keys()].filter((name) => name.startsWith('backbone.')).length;
  if (loaded.length * 2 >= whole) return;
  const example = (names: readonly string[]): string =>
    names.length > 0 ? `, e.g. ${names.slice(0, 2).join(', ')}` : '';
  const findings =
    `names as of ${source}; ${missing.length} missing${example(missing)}; ` +
    `${unexpected.length} unexpected${example(unexpected)}; ` +
    `${reshaped.length} of another shape${example(reshaped.map(({ name }) => name))}`;
  throw new WeightsError(
    `${file}: ${loaded.length} of the ${scope}'s ${whole} tensors match, ` +
      `less than half (${findings}); request partial loading if this is intended`,
  );
}

/** The learned boxes and features, without the generator of expert weights. */
const LEARNED_PROPOSALS = /^proposals\.(boxes|features)$/;

/**
 * Our weights with the names of Detectron2's Sparse R-CNN. Proposals without experts lose their expert axis and become
 * embeddings (`init_proposal_boxes.weight` [N, 4]). The other names are the same. `mapNames` reads the result.
 * @returns the tensors in the same order, and sentences for the user
 * @throws WeightsError if the names are those of a code base other than ours and Detectron2's
 */
export function exportNames(
  tensors: ReadonlyMap<string, CheckpointTensor>,
  file = 'checkpoint',
): { tensors: Map<string, CheckpointTensor>; notes: string[] } {
  const bare = withoutPrefix(tensors);
  const source = sourceOf(bare);
  const isKnown = [...bare.keys()].some((name) =>
    /^(backbone|bottom_up|proposals|init_proposal_\w+|head|stem|res[2-5])\./.test(name),
  );
  if (!isKnown || (source !== 'ours' && source !== 'detectron2')) {
    const got = isKnown || source !== 'ours' ? `those of ${source}` : `${[...bare.keys()].slice(0, 3).join(', ')}, ...`;
    throw new WeightsError(`${file}: expected the names of this project or of Detectron2, got ${got}`);
  }
  const notes: string[] = [];
  const isLearned = (name: string, { shape }: CheckpointTensor): boolean =>
    LEARNED_PROPOSALS.test(name) && shape.length === 3 && shape[0] === 1;
  const hasExperts = [...bare].some(([name, { tensor }]) => name.startsWith('proposals.') && !isLearned(name, tensor));
  const named = [...bare].map(([name, { tensor }]): [string, CheckpointTensor] => {
    const part = LEARNED_PROPOSALS.exec(name)?.[1];
    if (hasExperts || part === undefined) return [name, tensor];
    const theirs = `init_proposal_${part}.weight`;
    notes.push(
      `${name} [${tensor.shape.join(', ')}] is written as ${theirs} [${tensor.shape.slice(1).join(', ')}], ` +
        "as in Sparse R-CNN's checkpoints",
    );
    return [theirs, { shape: tensor.shape.slice(1), data: tensor.data }];
  });
  if (hasExperts)
    notes.push('proposals.* keep their names: Sparse R-CNN has no experts, and its code does not know them');
  return { tensors: new Map(named), notes };
}

/** Proposals [N, ...] of a file without experts as [1, N, ...]; with `broadcast`, repeated for the model's experts. */
function reshapeProposals(
  name: string,
  tensor: CheckpointTensor,
  expected: readonly number[],
  broadcast: boolean,
): CheckpointTensor {
  if (name !== 'proposals.boxes' && name !== 'proposals.features') return tensor;
  const shape = tensor.shape.length === 2 ? [1, ...tensor.shape] : tensor.shape;
  const experts = expected[0];
  const fits = shape.length === 3 && shape[0] === 1 && shape[1] === expected[1] && shape[2] === expected[2];
  if (!broadcast || !fits || experts === 1) return { shape, data: tensor.data };
  const data = new Float32Array(experts * tensor.data.length);
  for (let e = 0; e < experts; e++) data.set(tensor.data, e * tensor.data.length);
  return { shape: [experts, ...shape.slice(1)], data };
}

/**
 * Drops the scale and bias of batch norms if the model has group norms, because they mean nothing to group norms.
 * The sign of this case is that the file has statistics that the model lacks.
 * @returns the file's names of the dropped tensors
 */
function dropOtherNorms(found: Found, { tensors, source, notes }: SourceFile, expected: Shapes): string[] {
  const dropped: string[] = [];
  for (const [name, { tensor }] of tensors) {
    const ours = rename(source, name, tensor);
    if (!ours?.endsWith('.running_mean') || expected.has(ours)) continue;
    for (const part of ['weight', 'bias']) {
      const affine = `${ours.slice(0, -'running_mean'.length)}${part}`;
      const match = found.get(affine);
      if (match?.from) dropped.push(match.from);
      found.delete(affine);
    }
  }
  if (dropped.length > 0)
    notes.push(`the file has batch norms, the model group norms: ${dropped.length} scales and biases were ignored`);
  return dropped;
}

/** Adds the statistics of batch norms that are merged into scale and bias: mean 0, variance 1. */
function addImpliedStatistics(found: Found, expected: Shapes, notes: string[]): void {
  let norms = 0;
  for (const [name, { tensor }] of [...found]) {
    if (!name.endsWith('.norm.weight')) continue;
    const norm = name.slice(0, -'weight'.length);
    if (found.has(`${norm}running_mean`) || expected.get(`${norm}running_mean`)?.join() !== tensor.shape.join())
      continue;
    norms++;
    found.set(`${norm}running_mean`, {
      from: null,
      tensor: { shape: tensor.shape, data: new Float32Array(tensor.data.length) },
    });
    found.set(`${norm}running_var`, {
      from: null,
      tensor: { shape: tensor.shape, data: new Float32Array(tensor.data.length).fill(MERGED_VARIANCE) },
    });
  }
  if (norms > 0)
    notes.push(
      `${norms} batch norms without statistics: they are merged into scale and bias, as Detectron2 reads such files`,
    );
  notes.push(
    "MSRA's ResNets have their stride in the 1x1 convolutions, this model has it in the 3x3: " +
      'if this is one of them, the weights fit, but the features differ until they are trained',
  );
}
