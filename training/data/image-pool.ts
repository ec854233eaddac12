/**
 * Decodes and transforms images in worker threads, or in the calling thread.
 *
 * An image always goes to the same worker, so that only one worker caches it. An idle pool does not keep the process
 * alive.
 */
import { Worker } from 'node:worker_threads';
import type { Piece } from '../core/composition.ts';
import { InputError } from '../core/errors.ts';
import type { Size } from '../core/image-record.ts';
import type { ImageTransform } from '../core/transforms.ts';
import { readImage } from './formula-images.ts';
import { changeColors, orientImage } from './augment-pixels.ts';
import { ImageCache, resizeImage, transformImage, type PixelImage } from './images.ts';

export interface ImageTask {
  file: string;
  /** The size that the annotations state. */
  stated: Size;
  /** The value that becomes 255, for images of more than 8 bits; default: the range of the image. */
  white?: number;
  transform: ImageTransform;
  /** Changes after the transform; null: none. */
  changes: Pick<Piece, 'flipVertical' | 'transpose' | 'color'> | null;
  /** The size in which the cache keeps the image; null: its own. The transform starts from this size. */
  cachedSize: Size | null;
}

/** A message from the pool to a worker. */
export type PoolRequest = ImageTask & { id: number };

/** A message from a worker to the pool. `input`: the error is an InputError. */
export type PoolResponse = { id: number; image: PixelImage } | { id: number; error: string; input: boolean };

/**
 * Creates a reader that does one task after the other and caches images of at most `cacheBytes` together.
 * All tasks of an image must have the same `cachedSize`.
 */
export function createImageReader(cacheBytes: number): (task: ImageTask) => Promise<PixelImage> {
  const cache = new ImageCache(cacheBytes);
  let previous: Promise<unknown> = Promise.resolve();
  return ({ file, stated, white, transform, changes, cachedSize }) => {
    const result = previous.then(async () => {
      let image = cache.get(file);
      if (image === undefined) {
        image = await readImage(file, stated, white);
        if (cachedSize !== null) image = await resizeImage(image, cachedSize);
        cache.set(file, image);
      }
      const transformed = await transformImage(image, transform);
      if (changes === null) return transformed;
      const result = orientImage(transformed, changes.flipVertical, changes.transpose);
      if (changes.color !== null) changeColors(result, changes.color);
      return result;
    });
    previous = result.catch(() => undefined);
    return result;
  };
}

interface Pending {
  worker: number;
  file: string;
  resolve: (image: PixelImage) => void;
  reject: (error: Error) => void;
}

export class ImagePool {
  private readonly threads: Worker[];
  private readonly readHere: ((task: ImageTask) => Promise<PixelImage>) | null;
  private readonly pending = new Map<number, Pending>();
  private readonly busy: number[];
  private nextId = 0;
  private broken: Error | null = null;

  /**
   * @param workers    number of threads; 0: the calling thread does the work
   * @param cacheBytes bytes of cached images, all threads together
   */
  constructor(workers: number, cacheBytes: number) {
    this.readHere = workers === 0 ? createImageReader(cacheBytes) : null;
    this.busy = new Array<number>(workers).fill(0);
    this.threads = this.busy.map((_, worker) => {
      // A worker in plain JavaScript loads the TypeScript worker, because Node 20 passes no loader on to workers.
      const thread = new Worker(new URL('./image-worker.mjs', import.meta.url), {
        execArgv: [],
        workerData: Math.floor(cacheBytes / workers),
      });
      thread.on('message', (response: PoolResponse) => this.settle(response));
      thread.on('error', (error) => this.fail(new Error(`image worker: ${error.message}${this.readBy(worker)}`)));
      thread.on('exit', () => this.fail(new Error(`image worker: ended${this.readBy(worker)}`)));
      thread.unref();
      return thread;
    });
  }

  /** @param key an integer that identifies the image, e.g. its index; it decides which worker reads the image */
  read(task: ImageTask, key: number): Promise<PixelImage> {
    if (this.broken !== null) return Promise.reject(this.broken);
    if (this.readHere !== null) return this.readHere(task);
    const worker = key % this.threads.length;
    return new Promise((resolve, reject) => {
      const request: PoolRequest = { ...task, id: this.nextId++ };
      this.pending.set(request.id, { worker, file: task.file, resolve, reject });
      if (this.busy[worker] === 0) this.threads[worker].ref();
      this.busy[worker]++;
      this.threads[worker].postMessage(request);
    });
  }

  /** Ends the threads. Images that are still being read are rejected. */
  async close(): Promise<void> {
    this.fail(new Error('image pool: closed'));
    await Promise.all(this.threads.map((thread) => thread.terminate()));
  }

  /** The image that a worker reads now, for errors. It does one task after the other, in their order. */
  private readBy(worker: number): string {
    const current = [...this.pending.values()].find((pending) => pending.worker === worker);
    return current === undefined ? '' : ` while it read ${current.file}`;
  }

  private settle(response: PoolResponse): void {
    const pending = this.pending.get(response.id);
    if (pending === undefined) return;
    this.pending.delete(response.id);
    this.busy[pending.worker]--;
    if (this.busy[pending.worker] === 0) this.threads[pending.worker].unref();
    if ('image' in response) pending.resolve(response.image);
    else pending.reject(response.input ? new InputError(response.error) : new Error(response.error));
  }

  private fail(error: Error): void {
    this.broken ??= error;
    for (const { reject } of this.pending.values()) reject(this.broken);
    this.pending.clear();
  }
}
