/** A thread of a survey. It says that it is ready, and then answers each path with the facts of the image. */
import { parentPort } from 'node:worker_threads';
import { errorMessage } from '../../engine/core/errors.ts';
import { inspectImage, type ImageFacts } from './image-facts.ts';

/** A message of the thread. */
export type SurveyResponse = 'ready' | ImageFacts;

const port = parentPort;
if (port === null) throw new Error('survey-worker.ts runs in a worker thread only');
const answer = (response: SurveyResponse): void => port.postMessage(response);

port.on('message', async (file: string) => {
  try {
    answer(await inspectImage(file));
  } catch (error) {
    answer({ unreadable: errorMessage(error) });
  }
});
answer('ready');
