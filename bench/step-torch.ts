/** A job that runs PyTorch's training step in another process (bench/step.py). */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { InputError } from '../training/core/errors.ts';
import { type Job, KEEPS_MEMORY } from './measure.ts';
import type { Part } from './step-parts.ts';

/** Milliseconds by part, with the names of bench/step.py. */
export type TorchTimes = Readonly<Record<Part | 'backward' | 'update' | 'whole', number>>;

export interface Torch {
  readonly version: string;
  readonly job: Job;
  /** The times of all runs so far. */
  readonly runs: readonly TorchTimes[];
  close(): void;
}

/**
 * Starts a PyTorch process. Each execution of the job is one step of that process. Throws InputError if the process
 * does not start.
 */
export async function openTorch(python: string, setting: object): Promise<Torch> {
  const child = spawn(python, [fileURLToPath(new URL('step.py', import.meta.url))], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...KEEPS_MEMORY },
  });
  const failed = new Promise<never>((_, reject) => {
    child.on('error', (error) =>
      reject(new InputError(`bench: --torch: ${python} cannot be started: ${error.message}`)),
    );
    child.on('exit', (code) =>
      reject(new InputError(`bench: --torch: ${python} ended with code ${code}; its messages are above`)),
    );
  });
  failed.catch(() => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await Promise.race([lines.next(), failed]);
    return done ? failed : value;
  };
  child.stdin.on('error', () => undefined);
  child.stdin.write(`${JSON.stringify(setting)}\n`);
  const { torch } = JSON.parse(await next()) as { torch: string };
  const runs: TorchTimes[] = [];
  return {
    version: torch,
    runs,
    job: {
      name: 'PyTorch',
      run: async (times) => {
        for (let i = 0; i < times; i++) {
          child.stdin.write('\n');
          runs.push(JSON.parse(await next()) as TorchTimes);
        }
      },
    },
    close: () => {
      child.stdin.end();
    },
  };
}
