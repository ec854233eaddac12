/** Entry of the image worker threads: makes TypeScript loadable in this thread, then loads the worker. */
import { register } from 'tsx/esm/api';

register();
await import('./image-worker.ts');
