// @ts-check
/**
 * Names that set-up and the engine share: the drivers, and the folder of set-up's results. This file imports no
 * package, because set-up loads it before packages are installed.
 */
import path from 'node:path';

/** Names under which the user can request a driver. */
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
