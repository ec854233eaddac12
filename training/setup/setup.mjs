#!/usr/bin/env node
// @ts-check
/**
 * Set-up: installs the npm packages and chooses the WebGPU driver. Every npm script runs it first. If both are done,
 * set-up only checks a few files and prints nothing. The engine reads the choice from driver.json
 * (engine/node/driver-choice.ts).
 *
 * This file and its static imports use no npm package, because nothing may be installed yet.
 * Set-up accepts a driver if Dawn can run a shader on it in a child process.
 */
import { realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { setupFolder } from '../../engine/node/setup-contract.mjs';
import { HELP, parseArguments } from './arguments.mjs';
import { installPackages } from './packages.mjs';
import { SetupError, isExpected } from './setup-error.mjs';

/** @typedef {import('./driver.mjs').System} System */
/** @typedef {import('./arguments.mjs').Arguments} Arguments */
/**
 * @typedef {object} SetUpOptions
 * @property {string} root the folder of package.json
 * @property {readonly string[]} argv
 * @property {NodeJS.ProcessEnv} environment
 * @property {(line: string) => void} say prints a line
 * @property {(root: string, folder: string, say: (line: string) => void) => System} [system] default: this machine
 */

const MIN_NODE = [20, 19];
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/**
 * Installs the packages and chooses the driver.
 * @param {SetUpOptions} options
 */
export async function setUp({ root, argv, environment, say, system }) {
  const options = parseArguments(argv, environment);
  const print = (/** @type {string} */ line) => say(`set-up: ${line}`);
  const dependencies = installPackages(root, print);
  if (!options.driver) return;
  const named = ['VK_DRIVER_FILES', 'VK_ICD_FILENAMES'].find((name) => environment[name]);
  if (named && options.request === null) print(`${named} is set and names the driver; set-up chooses none`);
  else await chooseAndStore({ root, dependencies, options, print, system });
}

/**
 * Chooses and stores a driver, unless a valid choice is stored.
 * @param {object} options
 * @param {string} options.root
 * @param {string} options.dependencies hash of the installed packages
 * @param {Arguments} options.options
 * @param {(line: string) => void} options.print
 * @param {SetUpOptions['system']} options.system
 */
async function chooseAndStore({ root, dependencies, options, print, system }) {
  const { currentState, isStillValid, storeChoice } = await import('./state.mjs');
  const state = currentState(root, dependencies, print);
  const request = options.request ?? state.requested;
  if (!options.keep && isStillValid(state.choices[request], request)) return;

  const { chooseDriver } = await import('./driver.mjs');
  const { thisSystem } = await import('./system.mjs');
  const chosen = await chooseDriver(request, (system ?? thisSystem)(root, setupFolder(root), print), print);
  if (options.keep) state.requested = request;
  storeChoice(root, state, request, chosen);
  const vectors = chosen.vectorBits ? `, with vectors of ${chosen.vectorBits} bits` : '';
  const forThisRun = options.request && !options.keep ? ', for this run' : '';
  const name = chosen.adapter.description || chosen.adapter.device;
  print(`WebGPU runs on ${chosen.driver} (${name})${vectors}${forThisRun}; npm run doctor says why`);
  if (chosen.hint) print(chosen.hint);
}

/**
 * Runs set-up for this package as a program.
 * @param {readonly string[]} argv
 * @returns {Promise<number>} the exit code; 2 for an expected failure, whose message is printed
 */
export async function runSetUp(argv) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  try {
    if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1]))
      throw new SetupError(`expected Node ${MIN_NODE.join('.')} or newer, got ${process.versions.node}`);
    const say = (/** @type {string} */ line) => process.stderr.write(`${line}\n`);
    if (parseArguments(argv, process.env).help) process.stdout.write(`${HELP}\n`);
    else await setUp({ root: ROOT, argv, environment: process.env, say });
    return 0;
  } catch (error) {
    if (!isExpected(error)) throw error;
    process.stderr.write(`set-up: ${error.message}\n`);
    return 2;
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === realpathSync(fileURLToPath(import.meta.url)))
  process.exitCode = await runSetUp(process.argv.slice(2));
