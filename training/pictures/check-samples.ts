/** Images with their boxes on the page of a check: the worst of each finding, and some without findings. */
import sharp from 'sharp';
import { errorMessage } from '../../engine/core/errors.ts';
import type { Box, Size } from '../core/image-record.ts';
import type { CheckedDataset } from '../data/check.ts';
import { decodeImage } from '../data/decode.ts';
import type { AnnotatedImage } from '../data/format.ts';
import { colorOf } from './colors.ts';
import { escapeHtml } from './html.ts';

export interface Sample {
  readonly image: AnnotatedImage;
  readonly split: string;
  /** What was found in this image, the most serious first. */
  readonly reasons: readonly string[];
  /** Indices of the objects that were found. */
  readonly marked: ReadonlySet<number>;
}

/** Images that are drawn for each finding, and altogether. */
const PER_FINDING = 4;
const MAX_FOUND = 32;
/** Images without findings that are drawn. */
const MAX_USUAL = 12;
/** Objects that are drawn in an image. */
const MAX_OBJECTS = 400;
/** Long side of a picture in the page, pixels. */
const PICTURE_SIDE = 400;
/** Reasons below a picture. */
const MAX_REASONS = 3;
/** Part of the image's side up to which boxes outside of the image are shown. */
const MAX_MARGIN = 0.35;

/** The first images of each finding, in the order of the findings. */
export function worstSamples({ findings }: Pick<CheckedDataset, 'findings'>): Sample[] {
  const samples = new Map<AnnotatedImage, { split: string; reasons: string[]; marked: Set<number> }>();
  for (const { cases } of findings) {
    let added = 0;
    for (const { image, split } of cases) {
      if (image === undefined || samples.has(image) || added >= PER_FINDING || samples.size >= MAX_FOUND) continue;
      samples.set(image, { split: split ?? '', reasons: [], marked: new Set() });
      added++;
    }
  }
  for (const { title, cases } of findings)
    for (const { image, objects = [] } of cases) {
      const sample = image && samples.get(image);
      if (!sample) continue;
      if (!sample.reasons.includes(title)) sample.reasons.push(title);
      for (const index of objects) sample.marked.add(index);
    }
  return [...samples].map(([image, sample]) => ({ image, ...sample }));
}

/** Images at equal distances in each split that are not among the `worst`. */
export function usualSamples({ dataset, plans }: CheckedDataset, worst: readonly Sample[]): Sample[] {
  const shown = new Set(worst.map(({ image }) => image));
  const splits = Object.entries(dataset.annotated);
  const perSplit = Math.ceil(MAX_USUAL / Math.max(1, splits.length));
  return splits.flatMap(([split, images]) => {
    const others = images.filter((image) => !shown.has(image) && plans.get(image)?.plan);
    const step = Math.max(1, others.length / perSplit);
    const count = Math.min(perSplit, others.length);
    return Array.from({ length: count }, (_, i) => others[Math.floor(i * step)]).map((image) => {
      shown.add(image);
      return { image, split, reasons: [], marked: new Set<number>() };
    });
  });
}

/** A figure with the image, its boxes, and what was found. */
export async function drawSample(sample: Sample, { plans, dataset }: CheckedDataset): Promise<string> {
  const { image, split, reasons } = sample;
  const plan = plans.get(image)?.plan;
  let picture: string;
  try {
    if (!plan) throw new Error('the image cannot be read');
    const pixels = await decodeImage(image.file, plan.size, plan.white);
    const url = await dataUrl(pixels.data, plan.size);
    picture = overlay(sample, url, plan, dataset.classNames);
  } catch (error) {
    picture = `<p class="missing">${escapeHtml(errorMessage(error))}</p>`;
  }
  const texts = reasons.slice(0, MAX_REASONS).map((reason) => `<li>${escapeHtml(reason)}</li>`);
  return (
    `<figure>${picture}<figcaption><b>${escapeHtml(image.name)}</b> <span>${escapeHtml(split)}, ` +
    `${image.objects.length} objects</span><ul>${texts.join('')}</ul></figcaption></figure>`
  );
}

async function dataUrl(data: Uint8Array, size: Size): Promise<string> {
  const bytes = await sharp(data, { raw: { ...size, channels: 3 } })
    .resize(PICTURE_SIDE, PICTURE_SIDE, { fit: 'inside', withoutEnlargement: true })
    .jpeg({ quality: 78 })
    .toBuffer();
  return `data:image/jpeg;base64,${bytes.toString('base64')}`;
}

interface DrawnPlan {
  readonly size: Size;
  readonly boxScale: readonly [number, number];
}

function overlay(
  { image, marked }: Sample,
  url: string,
  { size: { width, height }, boxScale: [sx, sy] }: DrawnPlan,
  classNames: readonly string[],
): string {
  const drawn = image.objects
    .map(({ box: [x0, y0, x1, y1], label, crowd }, index) => ({
      box: [x0 * sx, y0 * sy, x1 * sx, y1 * sy] as Box,
      label,
      crowd,
      marked: marked.has(index),
    }))
    .filter(({ box }) => box.every(Number.isFinite))
    .sort((a, b) => Number(b.marked) - Number(a.marked))
    .slice(0, MAX_OBJECTS)
    // Marked boxes are drawn last, on top.
    .reverse();
  const view = viewOf(
    drawn.map(({ box }) => box),
    { width, height },
  );
  const boxes = drawn.map(({ box: [x0, y0, x1, y1], label, crowd, marked: found }) => {
    const name = escapeHtml(classNames[label] ?? '');
    const style = `${found ? ' class="found"' : ''}${crowd ? ' stroke-dasharray="6 4"' : ''}`;
    return (
      `<rect x="${number(Math.min(x0, x1))}" y="${number(Math.min(y0, y1))}" width="${number(Math.abs(x1 - x0))}" ` +
      `height="${number(Math.abs(y1 - y0))}" stroke="${colorOf(label)}" fill="${colorOf(label)}"${style}>` +
      `<title>${name}</title></rect>`
    );
  });
  return (
    `<svg viewBox="${view.map(number).join(' ')}" role="img" aria-label="${escapeHtml(image.name)}">` +
    `<image href="${url}" width="${width}" height="${height}" preserveAspectRatio="none"/>` +
    `${boxes.join('')}</svg>`
  );
}

const number = (value: number): string => String(Number(value.toFixed(2)));

/** x, y, width and height of the image, with a margin for boxes that reach out of it. */
function viewOf(boxes: readonly Box[], { width, height }: Size): number[] {
  const margin = (edge: number, side: number) => Math.min(Math.max(0, edge), MAX_MARGIN * side);
  const left = margin(Math.max(0, ...boxes.map(([x0]) => -x0)), width);
  const top = margin(Math.max(0, ...boxes.map(([, y0]) => -y0)), height);
  const right = margin(Math.max(0, ...boxes.map(([, , x1]) => x1 - width)), width);
  const bottom = margin(Math.max(0, ...boxes.map(([, , , y1]) => y1 - height)), height);
  return [-left, -top, width + left + right, height + top + bottom];
}
