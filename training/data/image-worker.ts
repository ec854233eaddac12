/** A worker thread of ImagePool. It answers each request with pixels, transferred without a copy, or with an error. */
import { parentPort, workerData } from 'node:worker_threads';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';
import { createImageReader, type PoolRequest, type PoolResponse } from './image-pool.ts';

const port = parentPort;
if (port === null) throw new Error('image-worker.ts runs in a worker thread only');
const read = createImageReader(Number(workerData));

port.on('message', async ({ id, ...task }: PoolRequest) => {
  try {
    const image = await read(task);
    const response: PoolResponse = { id, image };
    const { buffer } = image.data;
    port.postMessage(response, buffer instanceof ArrayBuffer ? [buffer] : []);
  } catch (error) {
    const response: PoolResponse = {
      id,
      error: errorMessage(error),
      input: error instanceof InputError,
    };
    port.postMessage(response);
  }
});
