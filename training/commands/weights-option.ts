/** The option `--weights` of commands: the path of a file, or the name of public weights. */
import { relative } from 'node:path';
import { cachedWeights } from '../checkpoints/weights-cache.ts';
import { publicNames, publicWeightsNamed, type PublicWeights } from '../checkpoints/public-weights.ts';
import { InputError } from '../core/errors.ts';
import { DownloadProgress } from '../output/download-progress.ts';

/** The help text about names, for commands that need a whole detector. */
export const DETECTOR_NAMES_HELP = `\
                  or a name: ${publicNames('detector')}
                  (mmdetection's files for COCO; downloaded once, with the configuration that fits)`;

/** A file of weights. */
export interface WeightsFile {
  readonly path: string;
  /** The entry of the table if the user gave a name. */
  readonly named: PublicWeights | null;
}

/**
 * The public weights that `--weights` names, for a command that needs a whole detector; null for the path of a file.
 * @throws InputError for the name of a backbone, and for a value that is neither a file nor a name
 */
export function detectorNamed(command: string, value: string): PublicWeights | null {
  const named = publicWeightsNamed(value);
  if (named?.content !== 'backbone') return named;
  throw new InputError(
    `${command}: --weights: expected a whole detector, got ${value}, which is only a backbone; ` +
      `train from it with npm run train -- --weights ${value}`,
  );
}

/** The file of `--weights`. Named weights are downloaded if the cache does not have them. */
export async function weightsFile(value: string, named: PublicWeights | null): Promise<WeightsFile> {
  if (named === null) return { path: value, named };
  const { name, description, source } = named;
  const progress = new DownloadProgress(name);
  let isNew = false;
  try {
    const path = await cachedWeights(named, {
      onProgress: (state) => {
        if (!isNew) progress.note(`download  ${named.address}`);
        isNew = true;
        progress.update(state);
      },
      onNote: (line) => progress.note(`download  ${name}: ${line}`),
    });
    progress.end();
    console.log(`public    ${name}: ${description} (${source}); ${isNew ? 'saved as' : 'file'} ${shown(path)}`);
    return { path, named };
  } finally {
    progress.end();
  }
}

/** A path below the current folder without this folder. */
const shown = (path: string): string => {
  const fromHere = relative('.', path);
  return fromHere.startsWith('..') ? path : fromHere;
};
