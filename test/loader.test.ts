/** The loader: batches depend only on seed and iteration, images occur once per epoch, unreadable ones are replaced. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureShapesDataset, openDataset } from '../training/data/index.ts';
import type { ImageRecord } from '../training/core/image-record.ts';
import { InputError } from '../training/core/errors.ts';
import { createEvaluationLoader, createTrainingLoader } from '../training/data/loader.ts';
import type { LoadedBatch, TrainingLoaderOptions } from '../training/data/loader.ts';
import { PLAIN_AUGMENTATION, type Augmentation } from '../training/core/augmentation.ts';

const folder = mkdtempSync(join(tmpdir(), 'loader-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let records: readonly ImageRecord[] = [];
beforeAll(async () => {
  const root = await ensureShapesDataset(join(folder, 'shapes'), { trainImages: 10, valImages: 1 });
  records = (await openDataset(root)).splits.train;
});

const augmentation: Augmentation = {
  ...PLAIN_AUGMENTATION,
  flip: 0.5,
  shortSides: [64, 96, 128],
  maxSize: 200,
  crop: { probability: 0.5, shortSides: [80, 100], minSize: 48, maxSize: 90 },
  fixedSize: null,
};
const unchanged: Augmentation = {
  ...PLAIN_AUGMENTATION,
  flip: 0,
  shortSides: [96],
  maxSize: 96,
  crop: null,
  fixedSize: null,
};
const evaluation = { shortSide: 96, maxSize: 96, fixedSize: null };

/** A batch with a digest in place of the pixels, which is quick to compare. */
function digest({ images, targets, iteration }: LoadedBatch) {
  return {
    iteration,
    targets,
    images: images.map(({ data, ...rest }) => ({ ...rest, data: createHash('sha256').update(data).digest('hex') })),
  };
}

/** `count` batches from iteration `start` on. */
async function take(count: number, options: Partial<TrainingLoaderOptions> = {}, start = 0): Promise<LoadedBatch[]> {
  const loader = createTrainingLoader({ records, batchSize: 4, seed: 5, augmentation, workers: 0, ...options });
  loader.seek(start);
  const batches: LoadedBatch[] = [];
  for (let i = 0; i < count; i++) batches.push(await loader.next());
  await loader.close();
  return batches;
}

describe('training', () => {
  test('workers, prefetching and cache do not change the batches; another seed does', async () => {
    const digests = async (options: Partial<TrainingLoaderOptions>) => (await take(6, options)).map(digest);
    const expected = await digests({});
    expect(await digests({ workers: 2 })).toEqual(expected);
    expect(await digests({ workers: 1, prefetch: 5, cacheBytes: 0 })).toEqual(expected);
    expect(await digests({ prefetch: 0, cacheBytes: 60_000 })).toEqual(expected);
    expect(await digests({ seed: 6 })).not.toEqual(expected);
  });

  test('cached resized images equal those that are not cached', async () => {
    for (const same of [
      { ...augmentation, crop: null, fixedSize: [50, 70] as const },
      { ...augmentation, crop: null, shortSides: [64] },
    ]) {
      const digests = async (cacheBytes: number) => (await take(8, { augmentation: same, cacheBytes })).map(digest);
      expect(await digests(1e8)).toEqual(await digests(0));
    }
  });

  test.each([0, 2])('batches after a seek equal those of an uninterrupted loader, %i workers', async (workers) => {
    const whole = (await take(8, { workers })).map(digest);
    expect(whole.map(({ iteration }) => iteration)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect((await take(3, { workers }, 5)).map(digest)).toEqual(whole.slice(5));
    const loader = createTrainingLoader({ records, batchSize: 4, seed: 5, augmentation, workers });
    await loader.next();
    loader.seek(6);
    expect(digest(await loader.next())).toEqual(whole[6]);
    loader.seek(2);
    expect(digest(await loader.next())).toEqual(whole[2]);
    await loader.close();
  });

  test('every image occurs once per epoch, in another order each time; batches span epochs', async () => {
    // 15 batches of 4 are 6 epochs of 10.
    const ids = (await take(15, { augmentation: unchanged })).flatMap((batch) =>
      batch.images.map(({ record }) => record.id),
    );
    const epochs = Array.from({ length: 6 }, (_, epoch) => ids.slice(epoch * 10, epoch * 10 + 10));
    for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual(records.map(({ id }) => id));
    expect(new Set(epochs.map(String)).size).toBe(6);
  });

  test('a batch larger than the data set repeats images with other augmentations', async () => {
    const [{ images }] = await take(1, { batchSize: 23 });
    expect(images.length).toBe(23);
    const same = images.filter(({ record }) => record === images[0].record);
    expect(new Set(same.map(({ width, height, data }) => `${width} ${height} ${data.join()}`)).size).toBeGreaterThan(1);
  });

  test('without augmentation, images and boxes are those of the data set; crowds are no targets', async () => {
    const withCrowd = records.map((record, i) =>
      i > 0 ? record : { ...record, objects: record.objects.map((object) => ({ ...object, crowd: true })) },
    );
    for (const { images, targets } of await take(3, { records: withCrowd, augmentation: unchanged })) {
      images.forEach(({ record, width, height, scale, data }, i) => {
        expect([width, height, data.length, ...scale]).toEqual([96, 96, 96 * 96 * 3, 1, 1]);
        const objects = record.objects.filter(({ crowd }) => !crowd);
        expect(targets[i].boxes).toEqual(Float32Array.from(objects.flatMap(({ box }) => box)));
        expect(targets[i].labels).toEqual(Uint32Array.from(objects.map(({ label }) => label)));
        if (record.id === withCrowd[0].id) expect(targets[i].labels.length).toBe(0);
      });
    }
  });

  test('transferring an image leaves the cached image intact', async () => {
    const loader = createTrainingLoader({
      records: records.slice(0, 1),
      batchSize: 1,
      seed: 1,
      augmentation: unchanged,
      workers: 1,
    });
    const first = (await loader.next()).images[0].data.slice();
    for (let i = 0; i < 4; i++) {
      const { data } = (await loader.next()).images[0];
      expect(data).toEqual(first);
      data.fill(0);
    }
    await loader.close();
  });
});

describe('mosaics and repeated images', () => {
  const mosaic: Augmentation = {
    ...PLAIN_AUGMENTATION,
    flip: 0.5,
    shortSides: [64],
    maxSize: 64,
    crop: null,
    fixedSize: null,
    mosaic: 0.7,
    scale: [0.5, 1.5],
    rotate90: 0.3,
    color: { brightness: 0.3, contrast: 0.3, saturation: 0.3, hue: 20, gray: 0.1 },
  };

  test('workers and cache do not change the batches, nor does a seek', async () => {
    const options = { augmentation: mosaic, repeatThreshold: 0.5, totalBatches: 20 };
    const expected = (await take(8, options)).map(digest);
    expect((await take(8, { ...options, workers: 2, cacheBytes: 0, prefetch: 4 })).map(digest)).toEqual(expected);
    expect((await take(3, options, 5)).map(digest)).toEqual(expected.slice(5));
  });

  test('all images of a run have one size, and boxes inside it', async () => {
    for (const { images, targets } of await take(4, { augmentation: mosaic }))
      images.forEach(({ width, height, data }, i) => {
        expect([width, height, data.length]).toEqual([64, 64, 64 * 64 * 3]);
        expect(targets[i].boxes.every((edge) => edge >= 0 && edge <= 64)).toBe(true);
      });
  });

  test('mosaics stop at the given share of the training', async () => {
    const onlyMosaic: Augmentation = { ...unchanged, mosaic: 1, mosaicEnd: 0.25 };
    const batches = await take(8, { augmentation: onlyMosaic, totalBatches: 8, batchSize: 2 });
    for (const { images, targets, iteration } of batches) {
      // Images in mosaics are reduced by random factors.
      expect(images.some(({ scale }) => scale[0] !== 1)).toBe(iteration < 6);
      if (iteration >= 6)
        expect(targets.map(({ labels }) => labels.length)).toEqual(images.map(({ record }) => record.objects.length));
    }
    const endless = await take(1, { augmentation: onlyMosaic, batchSize: 2 }, 1000);
    expect(endless[0].images.some(({ scale }) => scale[0] !== 1)).toBe(true);
  });

  test('with repeatThreshold, images with a rare class occur more often', async () => {
    const rare = records.map((record, i) => ({
      ...record,
      objects: record.objects.map((object) => ({ ...object, label: i === 0 ? 1 : 0 })),
    }));
    // Class 1 is in a tenth of ten images: sqrt(0.9 / 0.1) = 3 times, so an epoch has 12 images.
    const batches = await take(6, { records: rare, augmentation: unchanged, repeatThreshold: 0.9 });
    const ids = batches.flatMap(({ images }) => images.map(({ record }) => record.id));
    expect(ids.filter((id) => id === rare[0].id).length).toBe(6);
  });
});

describe('evaluation', () => {
  test.each([0, 2])(
    'all images once, in order, the last batch smaller; again on the second pass, %i workers',
    async (workers) => {
      const loader = createEvaluationLoader({
        records,
        batchSize: 4,
        resize: { shortSide: 48, maxSize: 96, fixedSize: null },
        workers,
      });
      expect(loader.length).toBe(3);
      for (let pass = 0; pass < 2; pass++) {
        const batches: LoadedBatch[] = [];
        for await (const batch of loader) batches.push(batch);
        expect(batches.map(({ images }) => images.length)).toEqual([4, 4, 2]);
        expect(batches.flatMap(({ images }) => images.map(({ record }) => record))).toEqual(records);
        for (const { images, targets } of batches) {
          expect(images[0]).toMatchObject({ width: 48, height: 48, scale: [0.5, 0.5] });
          expect(targets[0].boxes).toEqual(
            Float32Array.from(images[0].record.objects.flatMap(({ box }) => box.map((edge) => edge / 2))),
          );
        }
      }
      await loader.close();
    },
  );

  test('can be left early', async () => {
    const loader = createEvaluationLoader({ records, batchSize: 1, resize: evaluation, workers: 1 });
    for await (const batch of loader) if (batch.iteration === 2) break;
    const seen: number[] = [];
    for await (const batch of loader) seen.push(batch.iteration);
    expect(seen.length).toBe(records.length);
    await loader.close();
  });
});

describe('errors', () => {
  test.each([0, 1])(
    'a file that is no image, missing, or of another size is replaced by gray without objects, and named once, ' +
      '%i workers',
    async (workers) => {
      const text = join(folder, 'text.png'),
        gone = join(folder, 'gone.png');
      writeFileSync(text, 'not an image');
      const reasons = new Map<string, string>();
      const bad = records.map((record, i) => {
        if (i === 3 || i === 5) return { ...record, file: i === 3 ? text : gone };
        return i === 4 ? { ...record, width: 95 } : record;
      });
      const loader = createEvaluationLoader({
        records: bad,
        batchSize: 2,
        resize: evaluation,
        workers,
        onUnreadable: (file, reason) => {
          expect(reasons.has(file)).toBe(false);
          reasons.set(file, reason);
        },
      });
      for (let pass = 0; pass < 2; pass++) {
        let at = 0;
        for await (const { images, targets } of loader)
          for (const [i, { unreadable, record, data, width, height }] of images.entries()) {
            expect(record).toBe(bad[at]);
            expect(unreadable).toBe(at >= 3 && at <= 5);
            expect(data.length).toBe(width * height * 3);
            if (unreadable) {
              expect(new Set(data)).toEqual(new Set([128]));
              expect(targets[i]).toEqual({ boxes: new Float32Array(), labels: new Uint32Array() });
            } else expect(targets[i].labels.length).toBeGreaterThan(0);
            at++;
          }
        expect(at).toBe(records.length);
      }
      await loader.close();
      expect([...reasons.keys()].sort()).toEqual([gone, records[4].file, text].sort());
      expect(reasons.get(text)).toContain(`${text}: cannot be decoded: `);
      expect(reasons.get(gone)).toContain(`${gone}: cannot be decoded: `);
      expect(reasons.get(records[4].file)).toBe(
        `${records[4].file}: width x height: expected 95 x 96, as the annotations state, got 96 x 96`,
      );
    },
  );

  test('a file that is cut off is used as far as it decodes', async () => {
    const cut = join(folder, 'cut.png');
    copyFileSync(records[3].file, cut);
    truncateSync(cut, 5000);
    const read = async (file: string) => {
      const loader = createEvaluationLoader({
        records: [{ ...records[3], file }],
        batchSize: 1,
        resize: evaluation,
        workers: 0,
      });
      for await (const { images } of loader) return images[0];
      throw new Error('no batch');
    };
    const [whole, part] = [await read(records[3].file), await read(cut)];
    expect(part.unreadable).toBe(false);
    expect(part.data.subarray(0, 3 * 96)).toEqual(whole.data.subarray(0, 3 * 96));
    expect(part.data.subarray(-3 * 96)).not.toEqual(whole.data.subarray(-3 * 96));
  });

  test('an image that cannot be read changes no other image, and every epoch tries it again', async () => {
    const file = join(folder, 'late.png');
    const bad = records.map((record) => (record.id === 4 ? { ...record, file } : record));
    const options = { batchSize: 3, augmentation: unchanged };
    const good = await take(10, options);
    const replaced = await take(10, { ...options, records: bad });
    let count = 0;
    replaced.forEach(({ images }, i) =>
      images.forEach((image, slot) => {
        const expected = good[i].images[slot];
        expect(image.record.id).toBe(expected.record.id);
        if (image.record.id === 4) count++;
        else expect(image.data).toEqual(expected.data);
        expect(image.unreadable).toBe(image.record.id === 4);
      }),
    );
    expect(count).toBe(3);
    copyFileSync(records[3].file, file);
    for (const { images } of await take(4, { ...options, records: bad }))
      for (const { unreadable } of images) expect(unreadable).toBe(false);
  });

  test('next fails if more than half of the images are gone, and fails again at the second attempt', async () => {
    const bad = records.map((record, i) => (i < 6 ? { ...record, file: join(folder, `none-${i}.png`) } : record));
    const options = { batchSize: 1, seed: 5, augmentation: unchanged, workers: 1, prefetch: 0 };
    const loader = createTrainingLoader({ ...options, records: bad });
    const ids: number[] = [];
    const failed = async () => {
      for (;;) ids.push((await loader.next()).images[0].record.id);
    };
    await expect(failed).rejects.toThrow('6 of 10 images can no longer be read; is the disk still there? The latest: ');
    await expect(loader.next()).rejects.toBeInstanceOf(InputError);
    const good = (await take(10, { batchSize: 1, augmentation: unchanged })).map(({ images }) => images[0].record.id);
    expect(ids).toEqual(good.slice(0, ids.length));
    await loader.close();
    await expect(loader.next()).rejects.toThrow('closed');
  });

  test('bad options are refused', () => {
    const options: TrainingLoaderOptions = { records, batchSize: 4, seed: 5, augmentation };
    expect(() => createTrainingLoader({ ...options, batchSize: 0 })).toThrow(
      'loader: batchSize: expected an integer of at least 1, got 0',
    );
    expect(() => createTrainingLoader({ ...options, workers: -1 })).toThrow(
      'loader: workers: expected an integer of at least 0, got -1',
    );
    expect(() => createTrainingLoader({ ...options, records: [] })).toThrow(
      'loader: records: expected at least one image, got none',
    );
    expect(() => createTrainingLoader({ ...options, augmentation: { ...augmentation, flip: 2 } })).toThrow(
      'augmentation.flip: expected a probability in 0 .. 1, got 2',
    );
  });
});

test('workers run under plain `node --import tsx`, and a program that forgets to close the loader ends', () => {
  const program = join(folder, 'program.mts');
  const from = (path: string) => JSON.stringify(new URL(`../training/${path}`, import.meta.url).href);
  writeFileSync(
    program,
    `
    import { openDataset } from ${from('data/index.ts')};
    import { createTrainingLoader } from ${from('data/loader.ts')};
    const records = (await openDataset(${JSON.stringify(join(folder, 'shapes'))})).splits.train;
    const augmentation = ${JSON.stringify(unchanged)};
    const loader = createTrainingLoader({ records, batchSize: 4, seed: 5, augmentation, workers: 2 });
    console.log((await loader.next()).images.length);
  `,
  );
  const root = new URL('..', import.meta.url).pathname;
  expect(
    execFileSync(process.execPath, ['--import', 'tsx', program], { cwd: root, encoding: 'utf8', timeout: 60_000 }),
  ).toBe('4\n');
});
