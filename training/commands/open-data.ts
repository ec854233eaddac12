/** Opens the data set of a command, with the progress of reading the sizes of images. */
import { openDataset, type Dataset, type OpenOptions } from '../data/index.ts';
import { CountProgress } from '../output/count-progress.ts';

/** Like `openDataset`. Formats that do not state sizes open every image, which takes a while for many images. */
export async function openWithProgress(directory: string, options: Omit<OpenOptions, 'progress'>): Promise<Dataset> {
  const progress = new CountProgress();
  try {
    return await openDataset(directory, {
      ...options,
      progress: (done, total) => progress.update('image sizes read', done, total),
    });
  } finally {
    progress.end();
  }
}
