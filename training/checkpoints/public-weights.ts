/** The table of public weights that `--weights` takes by name, and the configurations that fit them. */
import { statSync } from 'node:fs';
import { PAPER_R50, type ModelConfig, type PresetName } from '../../model/index.ts';
import type { Choice } from '../core/choice.ts';
import { InputError } from '../core/errors.ts';
import type { ConfigSource } from '../data/config-file.ts';

export interface PublicWeights {
  readonly name: string;
  readonly address: string;
  /** First hex digits of the file's SHA-256. The publishers put them at the end of the file's name. */
  readonly sha256: string;
  /** Size in bytes, rounded; for messages before the server states the size. */
  readonly approximateBytes: number;
  /** `detector`: a whole model for COCO's 80 classes. `backbone`: only a ResNet; train from it. */
  readonly content: 'backbone' | 'detector';
  readonly description: string;
  /** Project and licence. */
  readonly source: string;
  /** Preset of a training that starts from the weights. */
  readonly preset: PresetName;
  /** Fields of the model in which the weights differ from the preset. */
  readonly model: Partial<ModelConfig>;
}

const TORCHVISION = 'torchvision, BSD-3-Clause, trained on ImageNet-1k';
const MMDETECTION = 'mmdetection, Apache-2.0, trained on COCO train2017';

/**
 * The files of torchvision's IMAGENET1K_V1. ResNet-50 and 101 also have IMAGENET1K_V2, with a higher accuracy on
 * ImageNet. Sparse R-CNN and the paper were trained from V1, so their numbers and learning rates belong to V1; and
 * ResNet-18 and 34 have no V2. Source: torchvision/models/resnet.py.
 */
function resnet(depth: 18 | 34 | 50 | 101, sha256: string, megabytes: number, preset: PresetName): PublicWeights {
  return {
    name: `resnet${depth}`,
    address: `https://download.pytorch.org/models/resnet${depth}-${sha256}.pth`,
    sha256,
    approximateBytes: megabytes * 1e6,
    content: 'backbone',
    description: `ResNet-${depth} backbone`,
    source: TORCHVISION,
    preset,
    model: { depth },
  };
}

/**
 * mmdetection's Sparse R-CNN. Its box coder (DeltaXYWHBBoxCoder) bounds dw and dh on both sides. Everything else is as
 * in the official code: the normalization of RGB images, ResNets with the stride in the 3x3 convolution, RoIAlign of
 * half-pixel alignment with 2 x 2 samples, target deviations 0.5, 0.5, 1, 1 (weights 2, 2, 1, 1), and no NMS.
 * Source: configs/sparse_rcnn and mmdet/core/bbox/coder/delta_xywh_bbox_coder.py.
 */
function sparseRcnn(
  { name, depth, proposals }: { readonly name: string; readonly depth: 50 | 101; readonly proposals: 100 | 300 },
  { run, sha256, ap }: { readonly run: string; readonly sha256: string; readonly ap: number },
): PublicWeights {
  const crop = proposals === 300 ? '300_proposals_crop_' : '';
  const config = `sparse_rcnn_r${depth}_fpn_${crop}mstrain_480-800_3x_coco`;
  return {
    name,
    address: `https://download.openmmlab.com/mmdetection/v2.0/sparse_rcnn/${config}/${config}_${run}-${sha256}.pth`,
    sha256,
    approximateBytes: depth === 50 ? 425e6 : 501e6,
    content: 'detector',
    description: `Sparse R-CNN, ResNet-${depth}, ${proposals} proposals, ${ap} AP on COCO val2017`,
    source: MMDETECTION,
    preset: 'r50',
    model: {
      depth,
      numProposals: proposals,
      numStages: 6,
      dpg: 'none',
      matcher: 'hungarian',
      boxMinLogScale: Math.log(16 / 1000),
      boxMaxLogScale: Math.log(1000 / 16),
    },
  };
}

export const PUBLIC_WEIGHTS: readonly PublicWeights[] = [
  resnet(18, 'f37072fd', 46.8, 'r18'),
  resnet(34, 'b627a593', 87.3, 'r18'),
  resnet(50, '0676ba61', 102.5, 'r50'),
  resnet(101, '63fe2227', 178.8, 'r50'),
  sparseRcnn(
    { name: 'sparse-rcnn-r50', depth: 50, proposals: 100 },
    { run: '20201218_154234', sha256: '7bc5c054', ap: 42.8 },
  ),
  sparseRcnn(
    { name: 'sparse-rcnn-r50-300', depth: 50, proposals: 300 },
    { run: '20201223_024605', sha256: '9fe92701', ap: 45.0 },
  ),
  sparseRcnn(
    { name: 'sparse-rcnn-r101', depth: 101, proposals: 100 },
    { run: '20201223_121552', sha256: '6c46c9d6', ap: 44.2 },
  ),
  sparseRcnn(
    { name: 'sparse-rcnn-r101-300', depth: 101, proposals: 300 },
    { run: '20201223_023452', sha256: 'c23c3564', ap: 46.2 },
  ),
];

/** The backbone that fits a model; null if there is none. The public ResNets have the width of the paper's. */
export function backboneFor({ depth, stemChannels }: ModelConfig): PublicWeights | null {
  if (stemChannels !== PAPER_R50.stemChannels) return null;
  return PUBLIC_WEIGHTS.find(({ content, model }) => content === 'backbone' && model.depth === depth) ?? null;
}

/** The file's name: the last part of the address. */
export const fileName = ({ address }: Pick<PublicWeights, 'address'>): string =>
  decodeURIComponent(new URL(address).pathname.split('/').at(-1) ?? '');

/** The names of a kind of public weights, for help texts and errors. */
export const publicNames = (content?: PublicWeights['content'], table = PUBLIC_WEIGHTS): string =>
  table
    .filter((weights) => content === undefined || weights.content === content)
    .map(({ name }) => name)
    .join(', ');

/**
 * The public weights that the value of `--weights` names; null if it is the path of a file. A file that exists wins
 * over a name.
 * @throws InputError with the known names if the value is neither
 */
export function publicWeightsNamed(value: string, table = PUBLIC_WEIGHTS): PublicWeights | null {
  const found = kindOf(value);
  const named = table.find(({ name }) => name === value);
  if (named && found !== 'file') return named;
  if (found !== 'nothing') return null; // Reading it may fail with an error that says what it is.
  throw new InputError(
    `${value}: cannot be read: expected a file or the name of public weights (${publicNames(undefined, table)}), ` +
      'got neither: there is no such file',
  );
}

function kindOf(path: string): 'file' | 'folder' | 'nothing' {
  try {
    return statSync(path).isDirectory() ? 'folder' : 'file';
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' || code === 'ENOTDIR' || code === 'ENAMETOOLONG' ? 'nothing' : 'file';
  }
}

/** The fields of the model in which the weights differ from their preset, as `key=value`. */
const changesOf = ({ model }: PublicWeights): string[] =>
  Object.entries(model).map(([key, value]) => `model.${key}=${JSON.stringify(value)}`);

/** The choice of a configuration for the weights, to print. */
export function configurationChoice({ name, model }: PublicWeights, { config }: ConfigSource): Choice {
  const changes = Object.entries(model).map(
    ([key, value]) => `${key} ${typeof value === 'number' ? Number(value.toFixed(3)) : value}`,
  );
  return {
    value: `preset ${config} with ${changes.join(', ')}`,
    reason: `fits the weights ${name}`,
    key: '--config',
  };
}

/** The configuration of a training that starts from the weights: the preset's recipe with the file's model. */
export const trainingConfigOf = (weights: PublicWeights): ConfigSource => ({
  config: weights.preset,
  set: changesOf(weights),
});

/** The configuration for evaluation and prediction with a detector: the file's model, and images as on COCO. */
export const inferenceConfigOf = (weights: PublicWeights): ConfigSource => ({
  config: 'sparse-rcnn-r50',
  set: changesOf(weights),
});
