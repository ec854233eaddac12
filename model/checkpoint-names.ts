/**
 * Translates the names that public checkpoints use to our names. Sources of checkpoints: Detectron2 (Sparse R-CNN and
 * ResNets), torchvision, timm, mmdetection's Sparse R-CNN, and Caffe2 (MSRA's ResNets).
 *
 * Our names are Detectron2's: `backbone.bottom_up.res2.0.conv1.norm.weight`, `backbone.fpn_lateral2.weight`,
 * `head.head_series.0.self_attn.in_proj_weight`. Only the proposals have names of our own: `proposals.boxes` [E, N, 4]
 * and `proposals.features` [E, N, d] for E experts (1 without experts).
 *
 * Sources: detectron2/checkpoint/c2_model_loading.py, PeizeSun/SparseR-CNN, torchvision/models/resnet.py, mmdet's
 * dii_head.py and DynamicConv.
 */
import type { CheckpointTensor } from '../engine/index.ts';

export type CheckpointSource = 'ours' | 'detectron2' | 'torchvision' | 'timm' | 'mmdetection' | 'caffe2';

export const BOTTOM_UP = 'backbone.bottom_up.';

/** A file's tensors by name, without the prefixes of wrappers. `from` is the name with prefixes. */
export type FileTensors = ReadonlyMap<string, { readonly from: string; readonly tensor: CheckpointTensor }>;

/** Prefixes of DistributedDataParallel, torch.compile and Lightning. */
const WRAPPERS = ['module.', '_orig_mod.', 'model.'];

/** Removes the prefixes that all names have in common. */
export function withoutPrefix(tensors: ReadonlyMap<string, CheckpointTensor>): FileTensors {
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

/** The code base that the names come from. The first matching rule decides. */
export function sourceOf(file: FileTensors): CheckpointSource {
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

/** Our name of a file's tensor; null if the model has no such tensor. */
export function rename(source: CheckpointSource, name: string, tensor: CheckpointTensor): string | null {
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

/**
 * All tensors of a file by our names, with our shapes of proposals.
 * @returns the tensors, the file's names of tensors without counterpart, and the number of counters of batch norms
 */
export function byOurNames(tensors: ReadonlyMap<string, CheckpointTensor>): {
  tensors: Map<string, CheckpointTensor>;
  others: string[];
  counters: number;
} {
  const file = withoutPrefix(tensors);
  const source = sourceOf(file);
  const others: string[] = [];
  const named = new Map<string, CheckpointTensor>();
  let counters = 0;
  for (const [name, { from, tensor }] of file) {
    if (name.endsWith('.num_batches_tracked')) {
      counters++;
      continue;
    }
    const ours = rename(source, name, tensor);
    if (ours === null || named.has(ours)) others.push(from);
    else if (/^proposals\.(boxes|features)$/.test(ours) && tensor.shape.length === 2)
      named.set(ours, { shape: [1, ...tensor.shape], data: tensor.data });
    else named.set(ours, tensor);
  }
  return { tensors: named, others, counters };
}

function detectron2Name(name: string): string {
  const proposals = /^init_proposal_(boxes|features)\.weight$/.exec(name);
  if (proposals) return `proposals.${proposals[1]}`;
  // ResNets by themselves, ResNets without FPN (`backbone.res4.`), and FPNs without their detector.
  const resnet = /^(?:(?:backbone\.)?bottom_up\.|backbone\.)?((?:stem|res[2-5])\..+)$/.exec(name);
  if (resnet) return BOTTOM_UP + resnet[1];
  return /^fpn_(lateral|output)\d/.test(name) ? `backbone.${name}` : name;
}

/** `layer1.0.bn2.weight`, by itself or with the prefix that detectors give their ResNet. */
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

/** torchvision's detectors: `backbone.fpn.inner_blocks.0.0.weight`. Version 0.13 added the second `.0`. */
function torchvisionPyramidName(name: string): string | null {
  const match = /^backbone\.fpn\.(inner|layer)_blocks\.([0-3])\.(?:0\.)?(weight|bias)$/.exec(name);
  return match
    ? `backbone.fpn_${match[1] === 'inner' ? 'lateral' : 'output'}${Number(match[2]) + 2}.${match[3]}`
    : null;
}

/** timm's ResNet-D has average pooling at 0, the shortcut's convolution at 1, and its norm at 2. */
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
