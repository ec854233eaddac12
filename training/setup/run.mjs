#!/usr/bin/env node
// @ts-check
/**
 * Runs set-up, and then one of the project's programs without Dawn's warnings (dawn-warnings.mjs). The npm scripts
 * use it: `node training/setup/run.mjs [--no-driver] training/cli.ts train ...`.
 */
import { spawn } from 'node:child_process';
import { DawnWarningFilter } from './dawn-warnings.mjs';
import { runSetUp } from './setup.mjs';

/**
 * Runs a program in a child process with filtered stderr. This process ends with the program's exit code or signal.
 * @param {readonly string[]} program its file and arguments
 * @returns {Promise<void>}
 */
async function run(program) {
  const child = spawn(process.execPath, ['--import', 'tsx', ...program], { stdio: ['inherit', 'inherit', 'pipe'] });
  // The program handles signals: a training saves its work. If a terminal signals both processes, the program gets the
  // signal twice (commands/interrupt.ts). This process ends after the program.
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']))
    process.on(signal, () => child.kill(signal));
  // If the reader of stderr has ended, the program gets the same error.
  process.stderr.on('error', () => child.stderr.destroy());
  child.stderr.pipe(new DawnWarningFilter()).pipe(process.stderr);
  const [code, signal] = await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (...end) => resolve(end));
  });
  if (signal) {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  } else process.exitCode = code;
}

const [first, ...rest] = process.argv.slice(2);
const [setUpArguments, program] = first === '--no-driver' ? [[first], rest] : [[], [first, ...rest]];
process.exitCode = await runSetUp(setUpArguments);
if (process.exitCode === 0) await run(program);
