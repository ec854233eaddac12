/** Finds what is wrong with the images of a data set: damage, sizes, bit depths, copies. */
import type { Finding, FindingCase } from './findings.ts';
import type { AnnotatedContent, AnnotatedImage } from './format.ts';
import type { ImageFacts, ReadableFacts } from './image-facts.ts';
import type { PlannedImage, SizeProblem } from './image-plans.ts';

export interface SurveyedImages {
  readonly annotated: AnnotatedContent['splits'];
  readonly facts: ReadonlyMap<string, ImageFacts>;
  readonly plans: ReadonlyMap<AnnotatedImage, PlannedImage>;
}

interface Place {
  readonly split: string;
  readonly image: AnnotatedImage;
  readonly facts: ReadableFacts;
}

/** Sides in pixels, and the ratio of the sides, from which an image is named. */
const SMALL_SIDE = 32;
const LARGE_SIDE = 8000;
const LONG_RATIO = 8;

export function checkImages({ annotated, facts, plans }: SurveyedImages): Finding[] {
  const places: Place[] = [];
  const unreadable: FindingCase[] = [];
  const seen = new Set<AnnotatedImage>();
  for (const [split, images] of Object.entries(annotated))
    for (const image of images) {
      const found = facts.get(image.file);
      if (found === undefined) continue;
      if (found.unreadable === null) places.push({ split, image, facts: found });
      else if (!seen.has(image)) unreadable.push({ split, text: `${image.file}: ${found.unreadable}` });
      seen.add(image);
    }
  const once = places.filter(firstOf(({ image }) => image));
  return [
    {
      kind: 'unreadable-images',
      severity: 'warning',
      title: 'images that cannot be read, left out',
      advice: 'copy them again from their source, or remove them from the annotations',
      cases: unreadable,
      strict: true,
      brief: true,
    },
    damaged(once),
    ...sizes(once, plans),
    deep(once, plans),
    ...copies(places),
    ...unusual(once),
  ];
}

/** A filter that keeps the first item of each key. */
function firstOf<T>(key: (item: T) => unknown): (item: T) => boolean {
  const seen = new Set<unknown>();
  return (item) => {
    const known = seen.has(key(item));
    seen.add(key(item));
    return !known;
  };
}

const caseOf = ({ split, image }: Place, text: string): FindingCase => ({
  split,
  image,
  text: `${image.file}: ${text}`,
});

function damaged(places: readonly Place[]): Finding {
  return {
    kind: 'damaged-images',
    severity: 'warning',
    title: 'damaged images, used as far as they decode',
    advice: 'copy them again from their source; --strict refuses them',
    cases: places.flatMap((place) => (place.facts.damage === null ? [] : [caseOf(place, place.facts.damage)])),
    strict: true,
    brief: true,
  };
}

const SIZE_FINDINGS: Readonly<Record<SizeProblem, { title: string; advice: string }>> = {
  exchanged: {
    title: 'images whose width and height are exchanged in the annotations; the real size is used',
    advice: 'look at the boxes of these images on the page of --out: they should still lie on the objects',
  },
  scaled: {
    title: 'images that were resized after they were annotated; their boxes are scaled to the real size',
    advice: 'look at the boxes of these images on the page of --out',
  },
  other: {
    title: 'images of another size than the annotations state; the real size is used, and boxes are clipped to it',
    advice: 'these may be other images than those that were annotated: look at their boxes on the page of --out',
  },
};

function sizes(places: readonly Place[], plans: SurveyedImages['plans']): Finding[] {
  return (['exchanged', 'scaled', 'other'] as const).map((problem) => ({
    kind: `size-${problem}`,
    severity: 'warning',
    ...SIZE_FINDINGS[problem],
    cases: places.flatMap((place) => {
      const { image } = place;
      const planned = plans.get(image);
      if (planned?.problem !== problem || !planned.plan || !image.stated) return [];
      const { size } = planned.plan;
      const text =
        `${image.source}: ${image.name}: width x height: expected ${size.width} x ${size.height}, ` +
        `as the image has, got ${image.stated.width} x ${image.stated.height}`;
      return [{ ...caseOf(place, ''), text }];
    }),
    strict: true,
    brief: true,
  }));
}

function deep(places: readonly Place[], plans: SurveyedImages['plans']): Finding {
  // All images have the same.
  const white = places.map(({ image }) => plans.get(image)?.plan?.white).find((value) => value !== undefined);
  return {
    kind: 'deep-images',
    severity: 'warning',
    title: `images of more than 8 bits; their values 0 .. ${white ?? 0} become 0 .. 255`,
    advice: 'nothing to do, if white has about this value in your images',
    cases: places.flatMap((place) => {
      const { depth, maximum } = place.facts;
      return maximum === null
        ? []
        : [caseOf(place, `values of type ${depth}, at most ${Number(maximum.toPrecision(6))}`)];
    }),
    strict: false,
    brief: true,
  };
}

/** Images with equal pixels, within a split and across splits. A case names all images of one content. */
function copies(places: readonly Place[]): Finding[] {
  const groups = new Map<string, Place[]>();
  for (const place of places) {
    const group = groups.get(place.facts.hash);
    if (group === undefined) groups.set(place.facts.hash, [place]);
    else group.push(place);
  }
  const within: FindingCase[] = [];
  const across: FindingCase[] = [];
  for (const group of groups.values()) {
    // A file in several lists is one image in each of them. That is said elsewhere.
    const files = group.filter(firstOf(({ image }) => image.file));
    if (files.length < 2) continue;
    const splits = new Set(group.map(({ split }) => split));
    const names = files.map(({ split, image }) => `${image.file} (${split})`);
    (splits.size > 1 ? across : within).push({
      split: files[1].split,
      image: files[1].image,
      text: `equal pixels: ${names.join(', ')}`,
    });
  }
  return [
    {
      kind: 'copies-across-splits',
      severity: 'warning',
      title: 'images that occur in several splits under different names; they say nothing about unseen images',
      advice: 'remove them from one of the splits, or the metrics are too high',
      cases: across,
      strict: false,
      brief: true,
    },
    {
      kind: 'copies-in-split',
      severity: 'note',
      title: 'images that occur several times in a split under different names',
      advice: 'remove the copies if they have no purpose; check that their objects agree',
      cases: within,
      strict: false,
      brief: false,
    },
  ];
}

function unusual(places: readonly Place[]): Finding[] {
  const note = (
    kind: string,
    title: string,
    advice: string,
    text: (facts: ReadableFacts) => string | null,
  ): Finding => ({
    kind,
    severity: 'note',
    title,
    advice,
    cases: places.flatMap((place) => {
      const found = text(place.facts);
      return found === null ? [] : [caseOf(place, found)];
    }),
    strict: false,
    brief: false,
  });
  return [
    note('uniform-images', 'images of one color', 'check their export; an empty image teaches little', ({ uniform }) =>
      uniform ? 'all pixels are equal' : null,
    ),
    note(
      'unusual-sizes',
      `images with a side below ${SMALL_SIDE} or above ${LARGE_SIDE} pixels, or sides of ${LONG_RATIO} to 1`,
      'cut very large images into tiles, or their objects become too small for the network',
      ({ displayed: { width, height } }) => {
        const [short, long] = [Math.min(width, height), Math.max(width, height)];
        const unusualSize = short < SMALL_SIDE || long > LARGE_SIDE || long > LONG_RATIO * short;
        return unusualSize ? `${width} x ${height} pixels` : null;
      },
    ),
    note(
      'transparent-images',
      'images with transparent pixels; transparency is ignored, so hidden colors are visible',
      'flatten these images on a background if the hidden colors disturb',
      ({ transparent }) => (transparent ? 'some pixels are transparent' : null),
    ),
    note(
      'several-pages',
      'images of several pages or frames; the first one is used',
      'save other pages as images of their own if they are annotated',
      ({ pages }) => (pages > 1 ? `${pages} pages` : null),
    ),
  ];
}
