/** Converts the stem of a checkpoint to the model's normalization and channel order. */
import type { CheckpointTensor } from '../engine/index.ts';
import { BOTTOM_UP, type CheckpointSource, type FileTensors } from './checkpoint-names.ts';

/** Tensors by our names. `from`: the name in the file; null if the file implies the value. */
export type Found = Map<string, { readonly from: string | null; readonly tensor: CheckpointTensor }>;

/** The file that is fitted to a model. */
export interface SourceFile {
  readonly tensors: FileTensors;
  readonly source: CheckpointSource;
  /** Sentences for the user. Each step of the conversion may add some. */
  readonly notes: string[];
}

/** Normalization of images: (pixel - mean) / std. */
interface Normalization {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

/** Caffe2's models take BGR images that are not divided by a deviation. Detectron2 has the same defaults. */
const CAFFE2_PIXELS: Normalization = { mean: [103.53, 116.28, 123.675], std: [1, 1, 1] };

const close = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((value, i) => Math.abs(value - b[i]) < 0.5);

/** The normalization that a file was trained with; null if it is unknown. */
function normalizationOf({ tensors, source }: SourceFile): Normalization | null {
  if (source === 'caffe2') return CAFFE2_PIXELS;
  const mean = tensors.get('pixel_mean')?.tensor.data;
  const std = tensors.get('pixel_std')?.tensor.data;
  return source === 'detectron2' && mean && std ? { mean: [...mean], std: [...std] } : null;
}

/**
 * Converts a stem that was trained on (BGR - mean) / std to the model's (RGB - mean) / std. The channels are reversed,
 * and each is scaled by the ratio of the deviations.
 */
export function convertStem(found: Found, file: SourceFile, { mean, std }: Normalization): void {
  const name = `${BOTTOM_UP}stem.conv1.weight`;
  const stem = found.get(name);
  const { notes } = file;
  const theirs = normalizationOf(file);
  if (!stem || !theirs || stem.tensor.shape.length !== 4 || stem.tensor.shape[1] !== 3) return;
  const isBgr = !close(theirs.mean, mean) && close([...theirs.mean].reverse(), mean);
  if ((!isBgr && !close(theirs.mean, mean)) || theirs.std.length !== 3 || !theirs.std.every((value) => value > 0)) {
    const numbers = (values: readonly number[]): string => values.slice(0, 3).join(', ');
    notes.push(
      `the file's images are normalized by mean ${numbers(theirs.mean)} and deviation ${numbers(theirs.std)}, ` +
        `the model's by ${numbers(mean)} and ${numbers(std)}: the stem was not converted`,
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
      const to = (o * 3 + c) * taps;
      const from = (o * 3 + (isBgr ? 2 - c : c)) * taps;
      for (let i = 0; i < taps; i++) data[to + i] = stem.tensor.data[from + i] * (std[c] / theirStd[c]);
    }
  }
  found.set(name, { from: stem.from, tensor: { shape: stem.tensor.shape, data } });
  notes.push(
    `the stem was converted from ${isBgr ? 'BGR' : 'RGB'} images of deviation ${theirs.std.join(', ')} ` +
      `to the model's RGB of ${std.join(', ')}`,
  );
}
