/** Reference of RoIAlign over a pyramid. */
import { type HostArray, memoized, type Reference } from './reference.ts';

interface RoiGeometry {
  readonly resolution: number;
  readonly samples: number;
  readonly strides: readonly number[];
}

/**
 * RoIAlign of boxes [B, N, 4] on maps [B, h, w, C], one per level. The level of a box follows the formula of the FPN
 * paper; the sampling is that of torchvision's roi_align with aligned coordinates.
 */
export function roiAlignReference(
  boxes: HostArray,
  maps: readonly HostArray[],
  { resolution: r, samples: n, strides }: RoiGeometry,
  upstream: HostArray,
): Reference {
  const perImage = boxes.shape[1];
  const C = maps[0].shape[3];
  const levelOf = (box: number): number => {
    const [x1, y1, x2, y2] = boxes.data.subarray(4 * box, 4 * box + 4);
    const level = Math.floor(4 + Math.log2(Math.sqrt(Math.max(0, (x2 - x1) * (y2 - y1))) / 224 + 1e-8));
    return Math.min(Math.max(level, 2), maps.length + 1) - 2;
  };
  const axis = (at: number, size: number): [low: number, high: number, fraction: number] => {
    const low = Math.floor(Math.max(at, 0));
    return low >= size - 1 ? [size - 1, size - 1, 0] : [low, low + 1, Math.max(at, 0) - low];
  };
  /** A bin as a weighted sum of pixels, which are numbered over all images of its level. */
  const bin = memoized((key) => {
    const box = Math.floor(key / (r * r));
    const [by, bx] = [Math.floor(key / r) % r, key % r];
    const level = levelOf(box);
    const [, height, width] = maps[level].shape;
    const [x1, y1, x2, y2] = Array.from(boxes.data.subarray(4 * box, 4 * box + 4), (v) => v / strides[level] - 0.5);
    const pixels: [pixel: number, weight: number][] = [];
    for (let sy = 0; sy < n; sy++)
      for (let sx = 0; sx < n; sx++) {
        const y = y1 + ((y2 - y1) * (by + (sy + 0.5) / n)) / r;
        const x = x1 + ((x2 - x1) * (bx + (sx + 0.5) / n)) / r;
        if (y < -1 || y > height || x < -1 || x > width) continue;
        const [y0, yy, fy] = axis(y, height);
        const [x0, xx, fx] = axis(x, width);
        const first = Math.floor(box / perImage) * height * width;
        for (const [py, px, weight] of [
          [y0, x0, (1 - fy) * (1 - fx)],
          [y0, xx, (1 - fy) * fx],
          [yy, x0, fy * (1 - fx)],
          [yy, xx, fy * fx],
        ])
          pixels.push([first + py * width + px, weight / (n * n)]);
      }
    return { level, pixels };
  });
  /** The bins that use a pixel, for each level. */
  const binsOf = memoized((level) => {
    const byPixel = new Map<number, [key: number, weight: number][]>();
    for (let key = 0; key < boxes.shape[0] * perImage * r * r; key++) {
      if (levelOf(Math.floor(key / (r * r))) !== level) continue;
      for (const [pixel, weight] of bin(key).pixels) {
        const list = byPixel.get(pixel);
        if (list) list.push([key, weight]);
        else byPixel.set(pixel, [[key, weight]]);
      }
    }
    return byPixel;
  });
  return {
    output: (index) => {
      const { level, pixels } = bin(Math.floor(index / C));
      return pixels.reduce((sum, [pixel, weight]) => sum + weight * maps[level].data[pixel * C + (index % C)], 0);
    },
    gradients: Object.fromEntries(
      maps.map((_, level) => [
        `map${level}`,
        (index: number) =>
          (binsOf(level).get(Math.floor(index / C)) ?? []).reduce(
            (sum, [key, weight]) => sum + weight * upstream.data[key * C + (index % C)],
            0,
          ),
      ]),
    ),
  };
}
