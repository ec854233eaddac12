/** Facts of images on disk, so that unchanged images are looked at once. A cache that cannot be used is no error. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import sharp from 'sharp';
import * as v from 'valibot';
import { errorMessage } from '../../engine/core/errors.ts';
import { userCacheFolder } from '../../engine/node/user-cache.ts';
import { writeFileAtomic } from './files.ts';
import type { ImageFacts } from './image-facts.ts';

/** Size in bytes and time of the last change in milliseconds: the same for an unchanged file. */
export interface FileState {
  readonly size: number;
  readonly modified: number;
}

/** Increased by every change after which the same file has other facts. */
const VERSION = 1;

const SIZE = v.object({ width: v.number(), height: v.number() });
const FACTS = v.union([
  v.object({ unreadable: v.string() }),
  v.object({
    unreadable: v.null(),
    stored: SIZE,
    displayed: SIZE,
    damage: v.nullable(v.string()),
    depth: v.string(),
    maximum: v.nullable(v.number()),
    hash: v.string(),
    uniform: v.boolean(),
    transparent: v.boolean(),
    pages: v.number(),
  }),
]);
const FILE = v.object({
  version: v.string(),
  images: v.array(v.tuple([v.string(), v.number(), v.number(), FACTS])),
});

/** Facts depend on the decoder. */
const version = (): string => `${VERSION}, sharp ${sharp.versions.sharp}`;

export class FactsCache {
  private readonly known = new Map<string, { state: FileState; facts: ImageFacts }>();
  /** What is wrong with the cache, in a sentence; null if nothing is. */
  problem: string | null = null;

  /** @param file null: nothing is kept */
  constructor(private readonly file: string | null) {
    if (file === null) return;
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
      if (!missing) this.problem = `${file}: cannot be read (${errorMessage(error)}); all images are looked at`;
      return;
    }
    try {
      const content = v.parse(FILE, JSON.parse(text));
      if (content.version !== version()) return;
      for (const [path, size, modified, facts] of content.images)
        this.known.set(path, { state: { size, modified }, facts });
    } catch {
      this.problem = `${file}: damaged; it is written again, and all images are looked at`;
    }
  }

  get(path: string, { size, modified }: FileState): ImageFacts | null {
    const entry = this.known.get(path);
    return entry?.state.size === size && entry.state.modified === modified ? entry.facts : null;
  }

  set(path: string, state: FileState, facts: ImageFacts): void {
    this.known.set(path, { state, facts });
  }

  /** Writes the cache. A failure becomes the `problem`. */
  save(): void {
    if (this.file === null) return;
    const images = [...this.known].map(([path, { state, facts }]) => [path, state.size, state.modified, facts]);
    try {
      mkdirSync(dirname(this.file), { recursive: true });
      writeFileAtomic(this.file, JSON.stringify({ version: version(), images }));
    } catch (error) {
      const reason = errorMessage(error);
      this.problem = `${this.file}: cannot be written (${reason}); the next check looks at all images again`;
    }
  }
}

/** The cache of a data set, in the user's cache folder. Null if DSRCNN_IMAGE_CACHE is `off`. */
export function factsFile(root: string, environment: NodeJS.ProcessEnv = process.env): string | null {
  if (environment.DSRCNN_IMAGE_CACHE === 'off') return null;
  const name = createHash('sha256').update(root).digest('hex').slice(0, 16);
  return join(userCacheFolder(environment), 'images', `${name}.json`);
}
