/** Opens every image of a data set once, and collects what is found. Unchanged images come from a cache. */
import { stat } from 'node:fs/promises';
import { FactsCache, type FileState } from './facts-cache.ts';
import type { ImageFacts } from './image-facts.ts';
import { inspectImages } from './survey-threads.ts';

export interface SurveyOptions {
  /** The file of the cache; null: none. */
  readonly cache: string | null;
  /** Worker threads; 0: this thread. Default: by the number of images and of cores. */
  readonly threads?: number;
  /** Called after each image that is opened, with the number of images that are not in the cache. */
  readonly progress?: (done: number, total: number) => void;
}

export interface Survey {
  /** By path. */
  readonly facts: ReadonlyMap<string, ImageFacts>;
  /** A sentence about the cache if it cannot be used; else null. */
  readonly problem: string | null;
}

/** Milliseconds after which the cache is written during a survey, so that an interruption loses little. */
const SAVE_INTERVAL = 60_000;
/** Files whose size and time are read at a time. */
const STAT_BATCH = 256;

export async function surveyImages(paths: readonly string[], options: SurveyOptions): Promise<Survey> {
  const cache = new FactsCache(options.cache);
  const facts = new Map<string, ImageFacts>();
  const states = new Map<string, FileState>();
  const unknown: string[] = [];
  const files = [...new Set(paths)];
  for (let start = 0; start < files.length; start += STAT_BATCH) {
    const batch = files.slice(start, start + STAT_BATCH);
    const found = await Promise.all(batch.map(stateOf));
    batch.forEach((file, i) => {
      const state = found[i];
      if (typeof state === 'string') {
        facts.set(file, { unreadable: state });
        return;
      }
      states.set(file, state);
      const known = cache.get(file, state);
      if (known === null) unknown.push(file);
      // Entries are made in the order of the files. The facts follow when the image was opened.
      facts.set(file, known ?? { unreadable: 'not opened' });
    });
  }
  if (unknown.length > 0) await inspect(unknown, { cache, facts, states }, options);
  return { facts, problem: cache.problem };
}

interface Known {
  readonly cache: FactsCache;
  readonly facts: Map<string, ImageFacts>;
  readonly states: ReadonlyMap<string, FileState>;
}

async function inspect(
  files: readonly string[],
  { cache, facts, states }: Known,
  { threads, progress }: SurveyOptions,
): Promise<void> {
  let done = 0;
  let savedAt = performance.now();
  const found = (file: string, ofImage: ImageFacts): void => {
    facts.set(file, ofImage);
    const state = states.get(file);
    if (state) cache.set(file, state, ofImage);
    progress?.(++done, files.length);
    if (performance.now() - savedAt < SAVE_INTERVAL) return;
    cache.save();
    savedAt = performance.now();
  };
  await inspectImages(files, found, threads);
  cache.save();
}

/** Size and time of a file, or why it is no file. */
async function stateOf(file: string): Promise<FileState | string> {
  try {
    const entry = await stat(file);
    if (!entry.isFile()) return 'no file';
    return entry.size === 0 ? 'the file is empty' : { size: entry.size, modified: entry.mtimeMs };
  } catch {
    return 'the file does not exist or cannot be opened';
  }
}
