// @ts-check
/** Reads and writes the stored choices of drivers (driver.json), and checks whether a choice is still valid. */
import { existsSync } from 'node:fs';
import * as v from 'valibot';
import { FORMAT, parseDriverFile, requestSchema } from '../../engine/node/driver-file.mjs';
import { check, readJson } from '../../engine/node/json-file.mjs';
import { driverFile } from '../../engine/node/setup-contract.mjs';
import { processorName, readCpuinfo } from './processor.mjs';
import { SetupError, messageOf } from './setup-error.mjs';
import { manifestFingerprint } from './vulkan-manifests.mjs';
import { writeJson } from './write-json.mjs';

/** @typedef {import('../../engine/node/setup-contract.mjs').Request} Request */
/** @typedef {import('../../engine/node/driver-file.mjs').DriverFile} DriverFile */
/** @typedef {import('../../engine/node/driver-file.mjs').StoredChoice} StoredChoice */

/** A file of an older set-up. Its choices lack fields, so only the request is used. */
const olderSchema = v.object({ format: v.picklist([1, 2]), requested: requestSchema });

/**
 * The stored choices; null if there is no file. The choices of older formats are dropped.
 * @param {string} root
 * @returns {DriverFile | null}
 * @throws SetupError if the file is invalid
 */
function readState(root) {
  const file = driverFile(root);
  if (!existsSync(file)) return null;
  try {
    const json = readJson(file);
    if (!v.is(v.object({ format: olderSchema.entries.format }), json)) return parseDriverFile(json, file);
    const { requested } = check(olderSchema, json, file);
    return { format: FORMAT, dependencies: '', requested, choices: {} };
  } catch (error) {
    throw new SetupError(messageOf(error));
  }
}

/**
 * The stored choices if they are valid for the installed packages; otherwise only the request.
 * @param {string} root
 * @param {string} dependencies hash of the installed packages
 * @param {(line: string) => void} say
 * @returns {DriverFile}
 */
export function currentState(root, dependencies, say) {
  /** @type {DriverFile | null} */
  let stored = null;
  try {
    stored = readState(root);
  } catch (error) {
    say(`choosing the driver again: ${messageOf(error)}`);
  }
  if (stored?.dependencies === dependencies) return stored;
  return { format: FORMAT, dependencies, requested: stored?.requested ?? 'auto', choices: {} };
}

/**
 * Stores a choice, with the drivers and the processor on which it depends.
 * @param {string} root
 * @param {DriverFile} state changed by this function
 * @param {Request} request
 * @param {Omit<StoredChoice, 'installed' | 'processor'>} choice
 */
export function storeChoice(root, state, request, choice) {
  state.choices[request] = { ...choice, installed: manifestFingerprint(), processor: processorName(readCpuinfo()) };
  writeJson(driverFile(root), state);
}

/**
 * Whether a stored choice is still valid. Reads only a few files.
 * @param {StoredChoice | undefined} choice
 * @param {Request} request
 */
export function isStillValid(
  choice,
  request,
  fingerprint = manifestFingerprint(),
  processor = processorName(readCpuinfo()),
) {
  if (choice === undefined) return false;
  if (choice.driver === 'lavapipe' && choice.processor !== processor) return false;
  // An upgraded lavapipe may check fewer bounds, or be faster with another vector width.
  if ((request === 'auto' || choice.driver === 'lavapipe') && choice.installed !== fingerprint) return false;
  return [...choice.manifests, choice.loader, choice.systemLoader].every((file) => !file || existsSync(file));
}
