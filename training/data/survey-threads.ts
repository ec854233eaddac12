/** Looks at many images in worker threads. A thread that ends names the image, and another thread takes its place. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { inspectImage, type ImageFacts } from './image-facts.ts';
import type { SurveyResponse } from './survey-worker.ts';

/** Fewer images are read in this thread, because threads take about a second to start. */
const MIN_IMAGES = 100;
/** More threads would only wait for the disk. */
const MAX_THREADS = 8;
/** Images that this thread reads at a time; libvips has threads of its own. */
const HERE = 4;

/** Looks at all files. `found` is called after each image, in any order. */
export async function inspectImages(
  files: readonly string[],
  found: (file: string, facts: ImageFacts) => void,
  threads = files.length < MIN_IMAGES ? 0 : Math.min(MAX_THREADS, availableParallelism()),
): Promise<void> {
  const queue = files.values();
  const each = async (inspect: (file: string) => Promise<ImageFacts>): Promise<void> => {
    for (const file of queue) found(file, await inspect(file));
  };
  if (threads === 0) {
    await Promise.all(Array.from({ length: HERE }, () => each(inspectImage)));
    return;
  }
  const running = Array.from({ length: Math.min(threads, files.length) }, () => new SurveyThread());
  try {
    await Promise.all(running.map((thread) => each((file) => thread.inspect(file))));
  } finally {
    await Promise.all(running.map((thread) => thread.close()));
  }
}

/** A worker that inspects one image at a time. */
class SurveyThread {
  private worker: Promise<Worker> | null = null;

  async inspect(file: string): Promise<ImageFacts> {
    this.worker ??= start();
    const answer = await next(await this.worker, file);
    if (answer instanceof Error) {
      this.worker = null;
      return { unreadable: `the decoder stopped: ${answer.message}` };
    }
    return answer;
  }

  async close(): Promise<void> {
    await (await this.worker)?.terminate();
  }
}

/** A worker that is ready. Rejects if it cannot start, which is no image's fault. */
async function start(): Promise<Worker> {
  // A worker in plain JavaScript loads the TypeScript worker, because Node 20 passes no loader on to workers.
  const worker = new Worker(new URL('./survey-worker.mjs', import.meta.url), { execArgv: [] });
  const answer = await next(worker, null);
  if (answer instanceof Error) throw answer;
  return worker;
}

/** Sends a path, and resolves to the next answer; to an error if the worker ends. */
function next(worker: Worker, file: string | null): Promise<ImageFacts | Error> {
  return new Promise((resolve) => {
    const finish = (answer: ImageFacts | Error): void => {
      // Only these: without a name, the listeners of Node itself would go, and no further message would come.
      for (const name of ['message', 'error', 'exit']) worker.removeAllListeners(name);
      // An error after the answer must not end the process.
      worker.on('error', () => undefined);
      resolve(answer);
    };
    worker.on('message', (response: SurveyResponse) => finish(response === 'ready' ? { unreadable: '' } : response));
    worker.on('error', (error) => finish(error instanceof Error ? error : new Error(String(error))));
    worker.on('exit', (code) => finish(new Error(`the thread ended with code ${code}`)));
    if (file !== null) worker.postMessage(file);
  });
}
