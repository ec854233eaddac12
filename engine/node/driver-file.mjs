// @ts-check
/**
 * The file driver.json: the drivers that set-up chose. Set-up writes the file and the engine reads it, both with this
 * schema.
 */
import * as v from 'valibot';
import { check, objectMessage } from './json-file.mjs';
import { REQUESTS } from './setup-contract.mjs';

/** Version of the format. Format 1 had no vector width, and format 2 had no bounds checks. */
export const FORMAT = 3;

const text = v.string('text');
const flag = v.boolean('true or false');
const POSITIVE = 'a positive integer or null';

export const requestSchema = v.picklist(REQUESTS, `one of ${REQUESTS.join(', ')}`);

const adapterFields = { vendor: text, architecture: text, device: text, description: text, fallback: flag };
const adapterSchema = v.object(adapterFields, objectMessage(adapterFields));

const choiceFields = {
  /** `software`: the system's own software adapter, outside Linux. */
  driver: v.picklist(['gpu', 'lavapipe', 'swiftshader', 'software'], 'gpu, lavapipe, swiftshader or software'),
  /** Vulkan driver manifests for VK_DRIVER_FILES. Empty: the Vulkan loader searches for drivers. */
  manifests: v.array(v.string('a path'), 'an array of paths'),
  /** The libvulkan to load before Dawn; null if the system has one. */
  loader: v.nullable(v.string('a path or null')),
  /** The system's libvulkan; null if Dawn did not use it. */
  systemLoader: v.nullable(v.string('a path or null')),
  /** Bits of lavapipe's vectors; null if lavapipe's own choice is the fastest. */
  vectorBits: v.nullable(v.pipe(v.number(POSITIVE), v.integer(POSITIVE), v.minValue(1, POSITIVE))),
  /** Whether set-up saw that the driver checks all accesses to buffers and textures. Only lavapipe is tested. */
  checksBounds: flag,
  adapter: adapterSchema,
  /** Why this driver was chosen, for `doctor`. */
  why: text,
  /** How to get a faster driver; null if there is no advice. */
  hint: v.nullable(v.string('text or null')),
  /** Fingerprint of the system's Vulkan manifests at the time of the choice. */
  installed: text,
  /** The processor at the time of the choice (`processorName` of set-up). */
  processor: text,
};
const choiceSchema = v.object(choiceFields, objectMessage(choiceFields));

const optionalChoice = v.optional(choiceSchema);

const requestFields = {
  auto: optionalChoice,
  gpu: optionalChoice,
  lavapipe: optionalChoice,
  swiftshader: optionalChoice,
};
const fileFields = {
  format: v.literal(FORMAT, `${FORMAT}`),
  /** Hash of the installed packages at the time of the choices. */
  dependencies: text,
  requested: requestSchema,
  choices: v.object(requestFields, objectMessage(requestFields)),
};
const driverFileSchema = v.object(fileFields, objectMessage(fileFields));

/** @typedef {v.InferOutput<typeof adapterSchema>} Adapter */
/** @typedef {v.InferOutput<typeof choiceSchema>} StoredChoice */
/** @typedef {v.InferOutput<typeof driverFileSchema>} DriverFile */

/**
 * Checks the content of driver.json.
 * @param {unknown} value
 * @param {string} file for the error's message
 * @returns {DriverFile}
 */
export const parseDriverFile = (value, file) => check(driverFileSchema, value, file);
