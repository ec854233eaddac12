// @ts-check
/**
 * What set-up and the engine agree on without any package: the names of the drivers, and the folder of set-up's
 * results.
 */
import path from 'node:path';

/** Names under which a driver can be asked for. */
export const REQUESTS = /** @type {const} */ (['auto', 'gpu', 'lavapipe', 'swiftshader']);
/** @typedef {typeof REQUESTS[number]} Request */

/**
 * The folder of set-up's results.
 * @param {string} root the folder of this project's package.json
 */
export const setupFolder = (root) => path.join(root, 'node_modules/.cache/dynamic-sparse-rcnn');

/**
 * The file of the chosen drivers (`driver-file.mjs` has its schema).
 * @param {string} root the folder of this project's package.json
 */
export const driverFile = (root) => path.join(setupFolder(root), 'driver.json');
