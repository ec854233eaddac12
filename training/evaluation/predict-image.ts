/** Detects objects on one image. Detections have class names, and boxes in pixels of the original image. */
import type { Detections } from '../../model/index.ts';
import type { Detector } from '../core/detector.ts';
import type { EvaluationResize } from '../core/augmentation.ts';
import { planEvaluation, scaleOf } from '../core/transforms.ts';
import { transformImage, type PixelImage } from '../data/images.ts';

export interface NamedDetection {
  /** Name of the class. */
  readonly name: string;
  /** 0-based index of the class. */
  readonly label: number;
  readonly score: number;
  /** xyxy pixels of the original image. */
  readonly box: [number, number, number, number];
}

/**
 * Detections with at least the score `minScore`, in pixels of the original image.
 * @param scale network pixels per pixel of the original, [horizontally, vertically]
 */
export function nameDetections(
  detections: Detections,
  scale: readonly [number, number],
  classNames: readonly string[],
  minScore: number,
): NamedDetection[] {
  const [sx, sy] = scale;
  const named: NamedDetection[] = [];
  detections.scores.forEach((score, i) => {
    if (score < minScore) return;
    const [x0, y0, x1, y1] = detections.boxes.subarray(4 * i, 4 * i + 4);
    const label = detections.labels[i];
    named.push({ name: classNames[label], label, score, box: [x0 / sx, y0 / sy, x1 / sx, y1 / sy] });
  });
  return named;
}

/** Resizes an image for the network. `scale`: network pixels per pixel of the original, [horizontally, vertically]. */
export async function prepareImage(
  image: PixelImage,
  resize: EvaluationResize,
): Promise<{ input: PixelImage; scale: [number, number] }> {
  const transform = planEvaluation(image, resize);
  return { input: await transformImage(image, transform), scale: scaleOf(transform, image) };
}

export interface PredictImageOptions {
  readonly resize: EvaluationResize;
  readonly classNames: readonly string[];
  /** Minimum score of a detection. */
  readonly minScore: number;
}

/** The detections with at least the score `minScore` on one image, in pixels of this image. */
export async function predictImage(
  detector: Detector,
  image: PixelImage,
  { resize, classNames, minScore }: PredictImageOptions,
): Promise<NamedDetection[]> {
  const { input, scale } = await prepareImage(image, resize);
  const [detections] = await detector.detect([input]);
  return nameDetections(detections, scale, classNames, minScore);
}
