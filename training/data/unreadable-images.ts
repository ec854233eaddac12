/** Puts gray images without objects in the place of images that can no longer be read, so that a training goes on. */
import { InputError } from '../core/errors.ts';
import type { PixelImage } from './decode.ts';
import type { ImagePool, ImageTask } from './image-pool.ts';

/** An image of a batch, or what replaces it. */
export interface ReadImage extends PixelImage {
  /** The file cannot be read; the pixels are gray. Its objects are no targets, and it gets no detections. */
  readonly unreadable: boolean;
}

const GRAY = 128;

/** Reads through a pool, and remembers the files that cannot be read. */
export class UnreadableImages {
  private readonly files = new Set<string>();

  /**
   * @param total        number of images. If more than half of them cannot be read, reading fails: the disk is gone
   * @param onUnreadable called once for each file, with the reason
   */
  constructor(
    private readonly pool: ImagePool,
    private readonly total: number,
    private readonly onUnreadable: (file: string, reason: string) => void = () => undefined,
  ) {}

  /** Number of files that could not be read. */
  get count(): number {
    return this.files.size;
  }

  /** As `ImagePool.read`, but gives a gray image of the right size if the file is the reason of a failure. */
  async read(task: ImageTask, key: number): Promise<ReadImage> {
    try {
      return { ...(await this.pool.read(task, key)), unreadable: false };
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      if (!this.files.has(task.file)) {
        this.files.add(task.file);
        this.onUnreadable(task.file, error.message);
      }
      if (2 * this.files.size > this.total)
        throw new InputError(
          `${this.files.size} of ${this.total} images can no longer be read; is the disk still there? ` +
            `The latest: ${error.message}`,
        );
      const turned = task.changes?.transpose === true;
      const [width, height] = turned
        ? [task.transform.height, task.transform.width]
        : [task.transform.width, task.transform.height];
      return { data: new Uint8Array(width * height * 3).fill(GRAY), width, height, unreadable: true };
    }
  }
}
