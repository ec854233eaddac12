/**
 * Names of public checkpoints to ours: Detectron2 (Sparse R-CNN, and its ResNets), torchvision, timm, mmdetection's Sparse R-CNN, Caffe2 (MSRA's ResNets).
 * Ours are Detectron2's: `backbone.bottom_up.res2.0.conv1.norm.weight`, `backbone.fpn_lateral2.weight`, `head.head_series.0.self_attn.in_proj_weight`;
 * the proposals are our own: `proposals.boxes` [E, N, 4] and `proposals.features` [E, N, d] for E experts (1 without them).
 *
 * Sources: detectron2/checkpoint/c2_model_loading.py, PeizeSun/SparseR-CNN, torchvision/models/resnet.py, mmdet's dii_head.py and DynamicConv.
 */
import { WeightsError, type CheckpointTensor } from '../engine/index.ts';
import { PAPER_R50 } from './config.ts';

export type CheckpointSource = 'ours' | 'detectron2' | 'torchvision' | 'timm' | 'mmdetection' | 'caffe2';

export interface NameTable {
  /** Whose names the file has. A plain timm ResNet has torchvision's. */
  readonly source: CheckpointSource;
  /** `backbone`: nothing in the file belongs to another part of the model. */
  readonly scope: 'model' | 'backbone';
  /** `from`: the name in the file; null where the file implies the value (Caffe2's merged statistics). */
  readonly loaded: readonly { readonly name: string; readonly from: string | null }[];
  /** In the model and not in the file: keeps its initial value. */
  readonly missing: readonly string[];
  /** In the file and not in the model, by the file's names. */
  readonly unexpected: readonly string[];
  /** In both, with different shapes (another number of classes, proposals, experts): keeps its initial value. */
  readonly reshaped: readonly {
    readonly name: string;
    readonly expected: readonly number[];
    readonly got: readonly number[];
  }[];
  /** What was converted, left out or could not be known; sentences for the user. */
  readonly notes: readonly string[];
}

/** A model's names and shapes, as PyTorch has them. */
type Shapes = ReadonlyMap<string, readonly number[]>;

export interface MappedWeights {
  /** Our names; may share memory with the file's tensors. */
  readonly loaded: ReadonlyMap<string, CheckpointTensor>;
  readonly table: NameTable;
}

export interface MapNamesOptions {
  /** Allows less than half of the names to match. */
  readonly partial?: boolean;
  /** Names the source in errors. */
  readonly file?: string;
  /** Gives the proposals of a file without experts to every expert of the model; without it they are listed as reshaped. */
  readonly broadcastExperts?: boolean;
  /** The model's normalisation of RGB images, to convert a stem that was trained with another. */
  readonly pixelMean?: readonly number[];
  readonly pixelStd?: readonly number[];
}

const BOTTOM_UP = 'backbone.bottom_up.';
/** Caffe2's files and Detectron2's oldest have batch norms merged into scale and bias; Detectron2 gives them this variance, which makes 1 with the eps of 1e-5. */
const MERGED_VARIANCE = 1 - 1e-5;
/** Caffe2's images are BGR with mean 103.53, 116.28, 123.675 and no division: c2's and Detectron2's defaults. */
const CAFFE2_PIXELS = { mean: [103.53, 116.28, 123.675], std: [1, 1, 1] };

/**
 * Fits a checkpoint to a model by name and shape.
 *
 * Channel order: a stem trained on BGR images is converted to the model's RGB where the file tells: Caffe2's names (always BGR), or Detectron2's `pixel_mean`
 * among the tensors. A Detectron2 file without it counts as RGB, as Sparse R-CNN and the torchvision conversions are.
 * MSRA's ResNets also have their stride in the 1x1 convolution, which names do not tell and weights cannot undo; a note says so.
 * @param expected the model's names and shapes, as PyTorch has them
 * @throws WeightsError where less than half of the model's names (of its backbone's, for a file of a backbone) match in name and shape, unless `partial`
 */
export function mapNames(
  tensors: ReadonlyMap<string, CheckpointTensor>,
  expected: Shapes,
  options: MapNamesOptions = {},
): MappedWeights {
  const file = withoutPrefix(tensors);
  const source = sourceOf(file);
  const notes: string[] = [];
  const found = new Map<string, { readonly from: string | null; readonly tensor: CheckpointTensor }>();
  const unexpected: string[] = [];
  let counters = 0;
  for (const [name, { from, tensor }] of file) {
    if (name.endsWith('.num_batches_tracked')) counters++;
    else if (source === 'detectron2' && (name === 'pixel_mean' || name === 'pixel_std')) continue;
    else {
      const ours = rename(source, name, tensor);
      if (ours === null || !expected.has(ours) || found.has(ours)) unexpected.push(from);
      else {
        const fitted = reshapeProposals(ours, tensor, expected.get(ours)!, options.broadcastExperts ?? false);
        found.set(ours, { from, tensor: fitted });
        if (fitted.data.length > tensor.data.length)
          notes.push(`${from}: the file has no experts, each of the model's ${fitted.shape[0]} starts from its values`);
      }
    }
  }
  if (counters > 0) notes.push(`${counters} counters (num_batches_tracked) are not needed`);
  unexpected.push(...dropOtherNorms(found, file, source, expected, notes));
  if (source === 'caffe2') impliedStatistics(found, expected, notes);
  if (source === 'timm')
    notes.push(
      'ResNet-D parts of timm (deep stem, shortcuts behind average pooling) have no counterpart here and were left out',
    );
  convertStem(found, file, source, options, notes);

  const loaded = new Map<string, CheckpointTensor>();
  const taken: NameTable['loaded'][number][] = [],
    reshaped: NameTable['reshaped'][number][] = [],
    missing: string[] = [];
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
  const whole =
    scope === 'model' ? expected.size : [...expected.keys()].filter((name) => name.startsWith('backbone.')).length;
  if (loaded.size * 2 < whole && !options.partial) {
    const example = (names: readonly string[]): string =>
      names.length > 0 ? `, e.g. ${names.slice(0, 2).join(', ')}` : '';
    const findings =
      `names as of ${source}; ${missing.length} missing${example(missing)}; ${unexpected.length} unexpected${example(unexpected)}; ` +
      `${reshaped.length} of another shape${example(reshaped.map(({ name }) => name))}`;
    throw new WeightsError(
      `${options.file ?? 'checkpoint'}: ${loaded.size} of the ${scope}'s ${whole} tensors match, less than half (${findings}); ` +
        'ask for partial loading if that is meant',
    );
  }
  return { loaded, table: { source, scope, loaded: taken, missing, unexpected, reshaped, notes } };
}

/** Proposals themselves, not the weights of their experts. */
const LEARNED_PROPOSALS = /^proposals\.(boxes|features)$/;

/**
 * Our weights under the names by which Detectron2's Sparse R-CNN knows them: proposals without experts lose their expert axis and become embeddings
 * (`init_proposal_boxes.weight` [N, 4]). Everything else has its name already. `mapNames` reads the result.
 * @returns the tensors in the same order, and sentences for the user
 * @throws WeightsError where the names are those of another code base than ours or Detectron2's
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
      `${name} [${tensor.shape.join(', ')}] is written as ${theirs} [${tensor.shape.slice(1).join(', ')}], as Sparse R-CNN's checkpoints have it`,
    );
    return [theirs, { shape: tensor.shape.slice(1), data: tensor.data }];
  });
  if (hasExperts)
    notes.push('proposals.* keep their names: Sparse R-CNN has no experts, and its code does not know them');
  return { tensors: new Map(named), notes };
}

/** The file's tensors by name without what wrappers put before every name; `from` is the whole name. */
type FileTensors = ReadonlyMap<string, { readonly from: string; readonly tensor: CheckpointTensor }>;

/** DistributedDataParallel, torch.compile, Lightning. */
const WRAPPERS = ['module.', '_orig_mod.', 'model.'];

function withoutPrefix(tensors: ReadonlyMap<string, CheckpointTensor>): FileTensors {
  const names = [...tensors.keys()];
  let length = 0;
  for (;;) {
    const wrapper = WRAPPERS.find(
      (prefix) => names.length > 0 && names.every((name) => name.startsWith(prefix, length)),
    );
    if (!wrapper) break;
    length += wrapper.length;
  }
  return new Map([...tensors].map(([from, tensor]) => [from.slice(length), { from, tensor }]));
}

/** Recognises whose names these are; the first that fits. */
function sourceOf(file: FileTensors): CheckpointSource {
  const some = (pattern: RegExp): boolean => [...file.keys()].some((name) => pattern.test(name));
  if (some(/^proposals\./)) return 'ours';
  if (some(/^init_proposal_(boxes|features)\./)) return 'detectron2';
  if (some(/^(neck|rpn_head|roi_head|bbox_head)\./)) return 'mmdetection';
  if (some(/^res2_0_branch/) || some(/^conv1_w$/)) return 'caffe2';
  if (some(/(^|\.)(bottom_up|stem\.conv1|res[2-5]\.\d+)\./)) return 'detectron2';
  if (some(/(^|\.)conv1\.0\.weight$/) || [...file].some(([name, { tensor }]) => isPooledShortcut(name, tensor)))
    return 'timm';
  return some(/(^|\.)layer[1-4]\.\d+\./) ? 'torchvision' : 'ours';
}

/** Our name of a file's tensor, or null where the source's names say that we have none. */
function rename(source: CheckpointSource, name: string, tensor: CheckpointTensor): string | null {
  switch (source) {
    case 'ours':
      return name;
    case 'detectron2':
      return detectron2Name(name);
    case 'torchvision':
      return torchvisionName(name) ?? torchvisionPyramidName(name);
    case 'timm':
      return isPooledShortcut(name, tensor) ? null : torchvisionName(name);
    case 'mmdetection':
      return torchvisionName(name) ?? mmdetectionName(name);
    case 'caffe2':
      return caffe2Name(name);
  }
}

function detectron2Name(name: string): string {
  const proposals = /^init_proposal_(boxes|features)\.weight$/.exec(name);
  if (proposals) return `proposals.${proposals[1]}`;
  // Bare ResNets, ResNets without FPN (`backbone.res4.`), and FPNs taken out of their detector.
  const resnet = /^(?:(?:backbone\.)?bottom_up\.|backbone\.)?((?:stem|res[2-5])\..+)$/.exec(name);
  if (resnet) return BOTTOM_UP + resnet[1];
  return /^fpn_(lateral|output)\d/.test(name) ? `backbone.${name}` : name;
}

/** `layer1.0.bn2.weight`, bare or below the names that detectors give their ResNet. */
function torchvisionName(name: string): string | null {
  const match =
    /^(?:backbone\.(?:body\.)?|encoder\.)?(?:layer([1-4])\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)$/.exec(name);
  if (!match) return null;
  const [, layer, block, kind, index, part] = match;
  if (layer === undefined) {
    if (index !== '1' || kind === 'downsample.') return null;
    return `${BOTTOM_UP}stem.conv1.${kind === 'bn' ? 'norm.' : ''}${part}`;
  }
  const at = `${BOTTOM_UP}res${Number(layer) + 1}.${block}.`;
  if (kind === 'downsample.')
    return index === '0' ? `${at}shortcut.${part}` : index === '1' ? `${at}shortcut.norm.${part}` : null;
  return `${at}conv${index}.${kind === 'bn' ? 'norm.' : ''}${part}`;
}

/** torchvision's detectors: `backbone.fpn.inner_blocks.0.0.weight`; the inner `.0` came with version 0.13. */
function torchvisionPyramidName(name: string): string | null {
  const match = /^backbone\.fpn\.(inner|layer)_blocks\.([0-3])\.(?:0\.)?(weight|bias)$/.exec(name);
  return match
    ? `backbone.fpn_${match[1] === 'inner' ? 'lateral' : 'output'}${Number(match[2]) + 2}.${match[3]}`
    : null;
}

/** timm's ResNet-D: average pooling, then the shortcut's convolution at 1 and its norm at 2. */
function isPooledShortcut(name: string, tensor: CheckpointTensor): boolean {
  return /\.downsample\.1\.weight$/.test(name) && tensor.shape.length === 4;
}

const MMDETECTION_STAGE: readonly (readonly [RegExp, string])[] = [
  [/^attention\.attn\./, 'self_attn.'],
  [/^attention_norm\./, 'norm1.'],
  [/^instance_interactive_conv\.dynamic_layer\./, 'inst_interact.dynamic_layer.'],
  [/^instance_interactive_conv\.norm_in\./, 'inst_interact.norm1.'],
  [/^instance_interactive_conv\.norm_out\./, 'inst_interact.norm2.'],
  [/^instance_interactive_conv\.fc_layer\./, 'inst_interact.out_layer.'],
  [/^instance_interactive_conv\.fc_norm\./, 'inst_interact.norm3.'],
  [/^instance_interactive_conv_norm\./, 'norm2.'],
  [/^ffn\.layers\.0\.0\./, 'linear1.'],
  [/^ffn\.layers\.1\./, 'linear2.'],
  [/^ffn_norm\./, 'norm3.'],
  [/^cls_fcs\./, 'cls_module.'],
  [/^reg_fcs\./, 'reg_module.'],
  [/^fc_cls\./, 'class_logits.'],
  [/^fc_reg\./, 'bboxes_delta.'],
];

function mmdetectionName(name: string): string | null {
  const proposals = /^rpn_head\.init_proposal_(bboxes|features)\.weight$/.exec(name);
  if (proposals) return proposals[1] === 'bboxes' ? 'proposals.boxes' : 'proposals.features';
  const neck = /^neck\.(lateral|fpn)_convs\.([0-3])\.conv\.(weight|bias)$/.exec(name);
  if (neck) return `backbone.fpn_${neck[1] === 'lateral' ? 'lateral' : 'output'}${Number(neck[2]) + 2}.${neck[3]}`;
  const stage = /^roi_head\.bbox_head\.(\d+)\.(.+)$/.exec(name);
  const rule = stage && MMDETECTION_STAGE.find(([pattern]) => pattern.test(stage[2]));
  return stage && rule ? `head.head_series.${stage[1]}.${stage[2].replace(rule[0], rule[1])}` : null;
}

const CAFFE2_PARTS: Readonly<Record<string, string>> = {
  w: 'weight',
  bn_s: 'norm.weight',
  bn_b: 'norm.bias',
  bn_rm: 'norm.running_mean',
  bn_riv: 'norm.running_var',
};
const CAFFE2_BRANCHES: Readonly<Record<string, string>> = {
  1: 'shortcut',
  '2a': 'conv1',
  '2b': 'conv2',
  '2c': 'conv3',
};

function caffe2Name(name: string): string | null {
  if (name === 'conv1_w') return `${BOTTOM_UP}stem.conv1.weight`;
  const stem = /^(?:res_)?conv1_(bn_(?:s|b|rm|riv))$/.exec(name);
  if (stem) return `${BOTTOM_UP}stem.conv1.${CAFFE2_PARTS[stem[1]]}`;
  const block = /^res([2-5])_(\d+)_branch(1|2a|2b|2c)_(w|bn_(?:s|b|rm|riv))$/.exec(name);
  if (block) return `${BOTTOM_UP}res${block[1]}.${block[2]}.${CAFFE2_BRANCHES[block[3]]}.${CAFFE2_PARTS[block[4]]}`;
  const pyramid = /^fpn_(inner_)?res([2-5])_\d+_sum(?:_lateral)?_(w|b)$/.exec(name);
  return pyramid
    ? `backbone.fpn_${pyramid[1] ? 'lateral' : 'output'}${pyramid[2]}.${pyramid[3] === 'w' ? 'weight' : 'bias'}`
    : null;
}

/** [N, ...] of a file without experts as [1, N, ...]; repeated for E experts where asked for. */
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

type Found = Map<string, { readonly from: string | null; readonly tensor: CheckpointTensor }>;

/** Batch norms' scale and bias mean nothing to group norms: where the file has statistics and the model has none, the norm is left out. Returns the file's names. */
function dropOtherNorms(
  found: Found,
  file: FileTensors,
  source: CheckpointSource,
  expected: Shapes,
  notes: string[],
): string[] {
  const dropped: string[] = [];
  for (const [name, { tensor }] of file) {
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
    notes.push(`the file has batch norms, the model group norms: ${dropped.length} scales and biases were left out`);
  return dropped;
}

function impliedStatistics(found: Found, expected: Shapes, notes: string[]): void {
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
    "if this is one of MSRA's ResNets, its stride is in the 1x1 convolutions, here it is in the 3x3: the weights fit, the features differ until they are trained",
  );
}

const close = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((value, i) => Math.abs(value - b[i]) < 0.5);

/** Makes a stem that was trained on (BGR - mean) / std take the model's (RGB - mean) / std: channels reversed, each scaled by the ratio of the deviations. */
function convertStem(
  found: Found,
  file: FileTensors,
  source: CheckpointSource,
  options: MapNamesOptions,
  notes: string[],
): void {
  const name = `${BOTTOM_UP}stem.conv1.weight`;
  const stem = found.get(name);
  const mean = options.pixelMean ?? PAPER_R50.pixelMean,
    std = options.pixelStd ?? PAPER_R50.pixelStd;
  const pixelMean = file.get('pixel_mean')?.tensor.data,
    pixelStd = file.get('pixel_std')?.tensor.data;
  const theirs =
    source === 'caffe2'
      ? CAFFE2_PIXELS
      : source === 'detectron2' && pixelMean && pixelStd
        ? { mean: [...pixelMean], std: [...pixelStd] }
        : null;
  if (!stem || !theirs || stem.tensor.shape.length !== 4 || stem.tensor.shape[1] !== 3) return;
  const isBgr = !close(theirs.mean, mean) && close([...theirs.mean].reverse(), mean);
  if ((!isBgr && !close(theirs.mean, mean)) || theirs.std.length !== 3 || !theirs.std.every((value) => value > 0)) {
    const numbers = (values: readonly number[]): string => values.slice(0, 3).join(', ');
    notes.push(
      `the file's images are normalised by mean ${numbers(theirs.mean)} and deviation ${numbers(theirs.std)}, the model's by ${numbers(mean)} and ${numbers(std)}: ` +
        'the stem was not converted',
    );
    return;
  }
  const theirStd = isBgr ? [...theirs.std].reverse() : theirs.std;
  if (!isBgr && theirStd.every((value, c) => Math.abs(value / std[c] - 1) < 1e-3)) return;
  const [outputs, , height, width] = stem.tensor.shape;
  const taps = height * width;
  const data = new Float32Array(stem.tensor.data.length);
  for (let o = 0; o < outputs; o++) {
    for (let c = 0; c < 3; c++) {
      const to = (o * 3 + c) * taps,
        from = (o * 3 + (isBgr ? 2 - c : c)) * taps;
      for (let i = 0; i < taps; i++) data[to + i] = stem.tensor.data[from + i] * (std[c] / theirStd[c]);
    }
  }
  found.set(name, { from: stem.from, tensor: { shape: stem.tensor.shape, data } });
  notes.push(
    `the stem was converted from ${isBgr ? 'BGR' : 'RGB'} images of deviation ${theirs.std.join(', ')} to the model's RGB of ${std.join(', ')}`,
  );
}
