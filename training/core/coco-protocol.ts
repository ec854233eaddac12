/**
 * The constants of COCO's evaluation protocol.
 *
 * Glossary: K categories, I images, D detections, G ground truths, T = 10 IoU thresholds, R = 101 recalls,
 * A = 4 size ranges (all, small, medium, large), M = 3 caps on detections per image and category (1, 10, 100).
 */

// numpy.linspace(0.5, 0.95, 10) and numpy.linspace(0, 1, 101), equal to the last bit.
export const IOU_THRESHOLDS = linspace(0.5, 0.95, 10);
export const RECALLS = linspace(0, 1, 101);
/** Inclusive bounds in square pixels. */
export const SIZE_RANGES: readonly (readonly [min: number, max: number])[] = [
  [0, 1e10],
  [0, 32 ** 2],
  [32 ** 2, 96 ** 2],
  [96 ** 2, 1e10],
];
export const DETECTION_CAPS = [1, 10, 100] as const;
export const T = IOU_THRESHOLDS.length;
export const R = RECALLS.length;
export const A = SIZE_RANGES.length;
export const M = DETECTION_CAPS.length;
export const MAX_DETECTIONS = DETECTION_CAPS[M - 1];

/** numpy computes index * step + start, and sets the last element to the end. */
function linspace(start: number, stop: number, count: number): Float64Array {
  const step = (stop - start) / (count - 1);
  return Float64Array.from({ length: count }, (_, index) => (index === count - 1 ? stop : index * step + start));
}
