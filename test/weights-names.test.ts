/** Names of public checkpoints are mapped to those of the model. The table lists every tensor of file and model. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readCheckpoint, WeightsError, type CheckpointTensor } from '../engine/index.ts';
import { mapNames, PAPER_R50, type MappedWeights } from '../model/index.ts';
import { readGolden } from './golden-files.ts';

type Shapes = ReadonlyMap<string, readonly number[]>;
type Tensors = Map<string, CheckpointTensor>;

/** Names and shapes of the reference models, from golden files of PyTorch. */
function referenceShapes(name: Parameters<typeof readGolden>[0]): Shapes {
  return new Map(
    [...readGolden(name).tensors]
      .filter(([key]) => key.startsWith('weights.'))
      .map(([key, { shape }]) => [key.slice('weights.'.length), shape]),
  );
}

const SPARSE_RCNN = referenceShapes('r50-sparse-rcnn');
const STAIRCASE = referenceShapes('r18-staircase-ota');
const GROUP_NORM = referenceShapes('r34-gn-fixed-k');

let serial = 0;

/** A tensor of consecutive numbers. No two tensors are equal. */
function tensor(shape: readonly number[]): CheckpointTensor {
  const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => serial++ % 1e6);
  return { shape, data };
}

/** A file whose names are made of our names by `rename`. A tensor is absent if its name is null. */
function fileOf(expected: Shapes, rename: (name: string) => string | null): Tensors {
  const file: Tensors = new Map();
  for (const [name, shape] of expected) {
    const theirs = rename(name);
    if (theirs !== null)
      file.set(theirs, tensor(name.startsWith('proposals.') && theirs !== name ? shape.slice(1) : shape));
  }
  return file;
}

/**
 * Each tensor of the model is loaded, missing or reshaped.
 * Each tensor of the file is loaded, reshaped, unexpected, or mentioned in a note.
 */
function expectAccount(
  { loaded, table }: MappedWeights,
  file: ReadonlyMap<string, CheckpointTensor>,
  expected: Shapes,
): void {
  expect(
    [...table.loaded.map(({ name }) => name), ...table.missing, ...table.reshaped.map(({ name }) => name)].sort(),
  ).toEqual([...expected.keys()].sort());
  expect([...loaded.keys()].sort()).toEqual(table.loaded.map(({ name }) => name).sort());
  for (const [name, { shape }] of loaded) expect(shape, name).toEqual(expected.get(name));
  const told = [...file.keys()].filter(
    (name) => name.endsWith('num_batches_tracked') || name === 'pixel_mean' || name === 'pixel_std',
  ).length;
  expect(
    table.loaded.filter(({ from }) => from !== null).length + table.reshaped.length + table.unexpected.length + told,
  ).toBe(file.size);
}

const torchvision = (name: string, prefix = ''): string | null => {
  const part = name.replace('backbone.bottom_up.', '');
  if (part === name) return null;
  return (
    prefix +
    part
      .replace(/^stem\.conv1\.norm\./, 'bn1.')
      .replace(/^stem\.conv1\./, 'conv1.')
      .replace(/^res(\d)/, (_, stage) => `layer${stage - 1}`)
      .replace('shortcut.norm.', 'downsample.1.')
      .replace('shortcut.', 'downsample.0.')
      .replace(/conv(\d)\.norm\./, 'bn$1.')
  );
};

const mmdetection = (name: string): string | null =>
  torchvision(name, 'backbone.') ??
  name
    .replace(
      /^backbone\.fpn_(lateral|output)(\d)\./,
      (_, kind, level) => `neck.${kind === 'lateral' ? 'lateral' : 'fpn'}_convs.${level - 2}.conv.`,
    )
    .replace('proposals.boxes', 'rpn_head.init_proposal_bboxes.weight')
    .replace('proposals.features', 'rpn_head.init_proposal_features.weight')
    .replace(/^head\.head_series\.(\d+)\./, 'roi_head.bbox_head.$1.')
    .replace('.self_attn.', '.attention.attn.')
    .replace('.inst_interact.dynamic_layer.', '.instance_interactive_conv.dynamic_layer.')
    .replace('.inst_interact.norm1.', '.instance_interactive_conv.norm_in.')
    .replace('.inst_interact.norm2.', '.instance_interactive_conv.norm_out.')
    .replace('.inst_interact.norm3.', '.instance_interactive_conv.fc_norm.')
    .replace('.inst_interact.out_layer.', '.instance_interactive_conv.fc_layer.')
    .replace(/(bbox_head\.\d+)\.norm1\./, '$1.attention_norm.')
    .replace(/(bbox_head\.\d+)\.norm2\./, '$1.instance_interactive_conv_norm.')
    .replace(/(bbox_head\.\d+)\.norm3\./, '$1.ffn_norm.')
    .replace('.linear1.', '.ffn.layers.0.0.')
    .replace('.linear2.', '.ffn.layers.1.')
    .replace('.cls_module.', '.cls_fcs.')
    .replace('.reg_module.', '.reg_fcs.')
    .replace('.class_logits.', '.fc_cls.')
    .replace('.bboxes_delta.', '.fc_reg.');

const detectron2 = (name: string): string => name.replace(/^proposals\.(boxes|features)$/, 'init_proposal_$1.weight');

const caffe2 = (name: string): string | null => {
  const part = name.replace('backbone.bottom_up.', '');
  if (part === name || /running_/.test(part)) return null;
  const suffix = part.endsWith('.norm.weight') ? 'bn_s' : part.endsWith('.norm.bias') ? 'bn_b' : 'w';
  if (part.startsWith('stem')) return suffix === 'w' ? 'conv1_w' : `res_conv1_${suffix}`;
  const [stage, block, conv] = part.split('.');
  return `${stage}_${block}_branch${{ shortcut: '1', conv1: '2a', conv2: '2b', conv3: '2c' }[conv]}_${suffix}`;
};

describe('whole models', () => {
  for (const [source, rename] of [
    ['ours', (name: string) => name],
    ['detectron2', detectron2],
    ['mmdetection', mmdetection],
  ] as const) {
    test(`${source}: every tensor of Sparse R-CNN is mapped`, () => {
      const file = fileOf(SPARSE_RCNN, rename);
      const mapped = mapNames(file, SPARSE_RCNN);
      expect(mapped.table).toMatchObject({
        source,
        scope: 'model',
        missing: [],
        unexpected: [],
        reshaped: [],
        notes: [],
      });
      for (const [name, { data }] of mapped.loaded) expect(data, name).toBe(file.get(rename(name)!)!.data);
      expectAccount(mapped, file, SPARSE_RCNN);
    });
  }

  test('our own file with experts keeps its experts', () => {
    const file = fileOf(STAIRCASE, (name) => name);
    expect(mapNames(file, STAIRCASE).table).toMatchObject({
      source: 'ours',
      missing: [],
      unexpected: [],
      reshaped: [],
    });
  });

  test('prefixes of DistributedDataParallel and torch.compile are removed', () => {
    const file = fileOf(SPARSE_RCNN, (name) => `_orig_mod.module.${detectron2(name)}`);
    const mapped = mapNames(file, SPARSE_RCNN);
    expect(mapped.table).toMatchObject({ source: 'detectron2', missing: [], unexpected: [] });
    expect(mapped.table.loaded[0].from).toMatch(/^_orig_mod\.module\./);
  });

  test('with another number of classes, the class layers start fresh', () => {
    const file = fileOf(SPARSE_RCNN, detectron2);
    for (const name of file.keys())
      if (name.includes('class_logits')) file.set(name, tensor(name.endsWith('bias') ? [80] : [80, 16]));
    const mapped = mapNames(file, SPARSE_RCNN);
    expect(mapped.table.reshaped).toContainEqual({
      name: 'head.head_series.0.class_logits.weight',
      expected: [5, 16],
      got: [80, 16],
    });
    expect(mapped.table.reshaped).toHaveLength(6);
    expectAccount(mapped, file, SPARSE_RCNN);
  });
});

describe('proposals without experts, for a model with experts', () => {
  const file = new Map([
    ...fileOf(STAIRCASE, (name) => (name.startsWith('proposals.') ? null : name)),
    ...['boxes', 'features'].map(
      (part) => [`init_proposal_${part}.weight`, tensor(STAIRCASE.get(`proposals.${part}`)!.slice(1))] as const,
    ),
  ]);

  test('count as reshaped', () => {
    const mapped = mapNames(file, STAIRCASE);
    expect(mapped.table.reshaped).toEqual([
      { name: 'proposals.boxes', expected: [4, 24, 4], got: [1, 24, 4] },
      { name: 'proposals.features', expected: [4, 24, 16], got: [1, 24, 16] },
    ]);
    expect(mapped.table.missing.every((name) => name.startsWith('proposals.weights.'))).toBe(true);
    expectAccount(mapped, file, STAIRCASE);
  });

  test('go to every expert on request', () => {
    const mapped = mapNames(file, STAIRCASE, { broadcastExperts: true });
    const { shape, data } = mapped.loaded.get('proposals.boxes')!;
    expect(shape).toEqual([4, 24, 4]);
    for (let e = 0; e < 4; e++)
      expect(data.slice(e * 96, (e + 1) * 96)).toEqual(file.get('init_proposal_boxes.weight')!.data);
    expectAccount(mapped, file, STAIRCASE);
  });
});

describe('ResNets', () => {
  const backbone = [...SPARSE_RCNN.keys()].filter((name) => name.startsWith('backbone.bottom_up.'));

  for (const [what, source, rename] of [
    ["torchvision's", 'torchvision', (name: string) => torchvision(name)],
    ["torchvision's in a detector", 'torchvision', (name: string) => torchvision(name, 'backbone.body.')],
    [
      "Detectron2's, bare",
      'detectron2',
      (name: string) => (torchvision(name) === null ? null : name.replace('backbone.bottom_up.', '')),
    ],
    [
      "Detectron2's, in a detector without FPN",
      'detectron2',
      (name: string) => (torchvision(name) === null ? null : name.replace('bottom_up.', '')),
    ],
  ] as const) {
    test(`${what}: the whole backbone is mapped, and nothing else`, () => {
      const file = fileOf(SPARSE_RCNN, rename);
      file.set('fc.weight', tensor([1000, 8]));
      const mapped = mapNames(file, SPARSE_RCNN);
      expect(mapped.table).toMatchObject({ source, scope: 'backbone', unexpected: ['fc.weight'], reshaped: [] });
      expect([...mapped.loaded.keys()].sort()).toEqual([...backbone].sort());
      for (const [name, { data }] of mapped.loaded) expect(data, name).toBe(file.get(rename(name)!)!.data);
      expectAccount(mapped, file, SPARSE_RCNN);
    });
  }

  test('a file that PyTorch wrote', () => {
    const bytes = new Uint8Array(readFileSync(new URL('golden/weights/resnet18.torchvision.pth', import.meta.url)))
      .buffer;
    const file = readCheckpoint(bytes, 'resnet18.pth').tensors;
    // The golden ResNet-18 at half its width.
    const expected: Shapes = new Map(
      [...STAIRCASE].map(([name, shape]) => [
        name,
        name.startsWith('backbone.bottom_up.')
          ? shape.map((n, axis) => ((axis === 1 && n === 3 && /stem/.test(name)) || axis > 1 ? n : n / 2))
          : shape,
      ]),
    );
    const mapped = mapNames(file, expected);
    expect(mapped.table).toMatchObject({
      source: 'torchvision',
      scope: 'backbone',
      unexpected: ['fc.weight', 'fc.bias'],
      reshaped: [],
    });
    expect(mapped.table.missing.some((name) => name.startsWith('backbone.bottom_up.'))).toBe(false);
    expect(mapped.table.notes).toEqual(['20 counters (num_batches_tracked) are not needed']);
    expect(mapped.loaded.get('backbone.bottom_up.res3.0.shortcut.weight')!.data).toBe(
      file.get('layer2.0.downsample.0.weight')!.data,
    );
  });

  test("timm's ResNet-D: deep stem and pooled shortcuts are unexpected", () => {
    const file: Tensors = new Map();
    for (const [name, value] of fileOf(SPARSE_RCNN, (ours) => torchvision(ours))) {
      const shortcut = /^(.*\.downsample)\.([01])\.(.*)$/.exec(name);
      if (name === 'conv1.weight') for (const i of [0, 3, 6]) file.set(`conv1.${i}.weight`, tensor([8, 8, 3, 3]));
      else file.set(shortcut ? `${shortcut[1]}.${Number(shortcut[2]) + 1}.${shortcut[3]}` : name, value);
    }
    const mapped = mapNames(file, SPARSE_RCNN);
    expect(mapped.table.source).toBe('timm');
    expect(mapped.table.missing).toContain('backbone.bottom_up.stem.conv1.weight');
    expect(mapped.table.unexpected).toEqual(
      expect.arrayContaining(['conv1.0.weight', 'layer1.0.downsample.1.weight', 'layer1.0.downsample.2.running_mean']),
    );
    expect(mapped.table.notes.join()).toContain('ResNet-D');
    expectAccount(mapped, file, SPARSE_RCNN);
  });

  test('batch norms do not become group norms', () => {
    const file = fileOf(SPARSE_RCNN, (name) => torchvision(name));
    const shapes: Shapes = new Map([...SPARSE_RCNN].filter(([name]) => !/norm\.running_/.test(name)));
    const mapped = mapNames(file, shapes, { partial: true });
    expect([...mapped.loaded.keys()].filter((name) => name.includes('.norm.'))).toEqual([]);
    expect(mapped.loaded.has('backbone.bottom_up.res5.2.conv3.weight')).toBe(true);
    expect(mapped.table.notes.join()).toContain('106 scales and biases were ignored');
    expectAccount(mapped, file, shapes);
    expect([...GROUP_NORM.keys()].some((name) => name.endsWith('running_mean'))).toBe(false);
  });
});

describe('stems trained on BGR images', () => {
  const STEM = 'backbone.bottom_up.stem.conv1.weight';

  /** The convolution at one position: the sum over channels and taps of weight times normalized pixel. */
  function respond(weight: CheckpointTensor, pixels: readonly number[]): number[] {
    const [outputs, channels, height, width] = weight.shape;
    const taps = height * width;
    return Array.from({ length: outputs }, (_, o) =>
      pixels.reduce(
        (total, pixel, c) =>
          total +
          pixel *
            weight.data.subarray((o * channels + c) * taps, (o * channels + c + 1) * taps).reduce((a, b) => a + b, 0),
        0,
      ),
    );
  }

  const pixel = fc.tuple(
    fc.integer({ min: 0, max: 255 }),
    fc.integer({ min: 0, max: 255 }),
    fc.integer({ min: 0, max: 255 }),
  );
  const MEAN = PAPER_R50.pixelMean,
    STD = PAPER_R50.pixelStd;

  function expectSameResponse(
    original: CheckpointTensor,
    converted: CheckpointTensor,
    bgrStd: readonly number[],
  ): void {
    fc.assert(
      fc.property(pixel, (rgb) => {
        const theirs = respond(
          original,
          [2, 1, 0].map((c, i) => (rgb[c] - MEAN[c]) / bgrStd[i]),
        );
        const ours = respond(
          converted,
          rgb.map((value, c) => (value - MEAN[c]) / STD[c]),
        );
        const size = Math.hypot(...theirs);
        // Weights are rounded to float32 once, and three channels may cancel each other.
        ours.forEach((value, o) => expect(Math.abs(value - theirs[o])).toBeLessThan(1e-4 * size + 1e-6));
      }),
      { seed: 2, numRuns: 50 },
    );
  }

  test("Caffe2's names: the stem is converted to RGB, and merged norms get statistics", () => {
    const file = fileOf(SPARSE_RCNN, caffe2);
    const mapped = mapNames(file, SPARSE_RCNN);
    expect(mapped.table).toMatchObject({ source: 'caffe2', scope: 'backbone', unexpected: [], reshaped: [] });
    expect(mapped.table.missing.some((name) => name.startsWith('backbone.bottom_up.'))).toBe(false);
    expectSameResponse(file.get('conv1_w')!, mapped.loaded.get(STEM)!, [1, 1, 1]);
    const variance = mapped.loaded.get('backbone.bottom_up.res4.1.conv2.norm.running_var')!.data;
    for (const value of variance) expect(value + 1e-5).toBeCloseTo(1, 6);
    expect(mapped.table.notes.join()).toMatch(/converted from BGR.*/);
    expect(mapped.table.notes.join()).toContain('stride');
    expectAccount(mapped, file, SPARSE_RCNN);
  });

  test("Detectron2's pixel_mean decides the channel order; a file without it counts as RGB", () => {
    const file = fileOf(SPARSE_RCNN, detectron2);
    const plain = mapNames(file, SPARSE_RCNN);
    expect(plain.loaded.get(STEM)!.data).toBe(file.get(STEM)!.data);
    const pixels = (mean: readonly number[], std: readonly number[]): Tensors =>
      new Map([
        ...file,
        ['pixel_mean', { shape: [3, 1, 1], data: Float32Array.from(mean) }],
        ['pixel_std', { shape: [3, 1, 1], data: Float32Array.from(std) }],
      ]);
    const bgr = pixels([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]);
    const converted = mapNames(bgr, SPARSE_RCNN);
    expectSameResponse(file.get(STEM)!, converted.loaded.get(STEM)!, [57.375, 57.12, 58.395]);
    expectAccount(converted, bgr, SPARSE_RCNN);
    const rgb = mapNames(pixels(MEAN, STD), SPARSE_RCNN);
    expect(rgb.loaded.get(STEM)!.data).toBe(file.get(STEM)!.data);
    expect(rgb.table.notes).toEqual([]);
    const other = mapNames(pixels([127.5, 127.5, 127.5], [127.5, 127.5, 127.5]), SPARSE_RCNN);
    expect(other.table.notes.join()).toContain('the stem was not converted');
  });
});

describe('files with few matching tensors', () => {
  test('less than half of the tensors is an error with the findings, without partial', () => {
    const names = [...SPARSE_RCNN.keys()].filter((name) => name.startsWith('head.'));
    const few = new Map(names.slice(0, 20).map((name) => [name, tensor(SPARSE_RCNN.get(name)!)]));
    few.set('decoder.weight', tensor([1]));
    expect(() => mapNames(few, SPARSE_RCNN, { file: 'few.pth' })).toThrow(WeightsError);
    expect(() => mapNames(few, SPARSE_RCNN, { file: 'few.pth' })).toThrow(
      /^few\.pth: 20 of the model's \d+ tensors match, less than half .*1 unexpected, e\.g\. decoder\.weight/,
    );
    const mapped = mapNames(few, SPARSE_RCNN, { partial: true });
    expect(mapped.loaded.size).toBe(20);
    expectAccount(mapped, few, SPARSE_RCNN);
  });

  test('a backbone file of another depth or with unknown names is refused', () => {
    const small = fileOf(STAIRCASE, (name) => torchvision(name));
    expect(() => mapNames(small, SPARSE_RCNN, { file: 'r18.pth' })).toThrow(
      /r18\.pth: \d+ of the backbone's \d+ tensors match, less than half \(names as of torchvision/,
    );
    expect(() => mapNames(new Map([['x', tensor([1])]]), SPARSE_RCNN)).toThrow(/0 of the model's/);
    expect(() => mapNames(new Map(), SPARSE_RCNN)).toThrow(/0 of the model's/);
  });

  test('the table accounts for random subsets, names and shapes', () => {
    const names = [...SPARSE_RCNN.keys()];
    fc.assert(
      fc.property(
        fc.constantFrom(detectron2, mmdetection, (name: string) => torchvision(name), caffe2),
        fc.array(fc.tuple(fc.nat(names.length - 1), fc.constantFrom('drop', 'reshape', 'rename', 'both')), {
          maxLength: 30,
        }),
        (rename, edits) => {
          const file = fileOf(SPARSE_RCNN, rename);
          for (const [index, edit] of edits) {
            const name = rename(names[index]);
            if (name === null || !file.has(name)) continue;
            if (edit === 'reshape') file.set(name, tensor([3, 1, 2]));
            else if (edit === 'both') file.set(`${name}.more`, tensor([2]));
            else file.delete(name);
            if (edit === 'rename') file.set(`strange.${name}`, tensor([2]));
          }
          if (file.has('conv1_w') || file.has('res2_0_branch2a_w') || rename !== caffe2)
            expectAccount(mapNames(file, SPARSE_RCNN, { partial: true }), file, SPARSE_RCNN);
        },
      ),
      { seed: 4, numRuns: 60 },
    );
  });
});
