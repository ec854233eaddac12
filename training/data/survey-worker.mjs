/** Entry of the threads of a survey: makes TypeScript loadable in this thread, then loads the worker. */
import { register } from 'tsx/esm/api';

register();
await import('./survey-worker.ts');
