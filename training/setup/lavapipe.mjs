// @ts-check
/**
 * Finds lavapipe's settings with programs that run on lavapipe: whether Dawn must check bounds, and the width of
 * lavapipe's vectors.
 */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { askChild } from './child.mjs';
import { hasAvx512, readCpuinfo } from './processor.mjs';

/** @typedef {import('./child.mjs').ChildDriver} ChildDriver */
/** @typedef {import('./vector-width.ts').WidthReport} WidthReport */
/** @typedef {import('./bounds.ts').BoundsReport} BoundsReport */
/** @typedef {{ checks: boolean, why: string }} BoundsChoice `checks`: lavapipe checks bounds, so Dawn need not. */
/** @typedef {{ bits: 512 | null, why: string }} VectorChoice null: lavapipe's own width */
/**
 * The result of a run of bounds.ts, or why it failed.
 * @typedef {{ value: BoundsReport | null, problem: string | null }} BoundsReading
 */
/**
 * The result of a run of vector-width.ts, or why it failed.
 * @typedef {{ bits: 256 | 512, value: WidthReport | null, problem: string | null }} WidthMeasurement
 */

/** Minimum speed-up of 512 bits over 256. Two runs of the same width differ by less. */
const MIN_SPEEDUP = 1.1;

/** Node's arguments for a TypeScript program of this folder. @param {string} name */
const program = (name) => ['--import', 'tsx', fileURLToPath(new URL(name, import.meta.url))];

/**
 * Whether lavapipe checks bounds: only if every run passed and no access escaped.
 * @param {readonly BoundsReading[]} readings one for each width of vectors, or up to the first failure
 * @returns {BoundsChoice}
 */
export function chooseBounds(readings) {
  for (const { value, problem } of readings) {
    const failure = value === null ? problem : value.escape;
    if (failure !== null) return { checks: false, why: `with Dawn's bounds checks, because without them ${failure}` };
  }
  return { checks: true, why: "without Dawn's bounds checks, because lavapipe has its own" };
}

/**
 * Tests whether lavapipe checks bounds, with every width of vectors that it may run with.
 * @param {string} root
 * @param {ChildDriver} driver
 * @param {(line: string) => void} say
 * @returns {BoundsChoice}
 */
export function testBounds(root, driver, say) {
  say('testing whether lavapipe checks bounds');
  /** @type {BoundsReading[]} */
  const readings = [];
  for (const width of hasAvx512(readCpuinfo()) ? ['256', '512'] : [null]) {
    const answer = /** @type {BoundsReading} */ (
      askChild(program('bounds.ts'), root, driver, {
        MESA_SHADER_CACHE_DISABLE: 'true',
        DSRCNN_ROBUSTNESS: 'off',
        ...(width === null ? {} : { LP_NATIVE_VECTOR_WIDTH: width }),
      })
    );
    readings.push(answer);
    if (answer.value?.escape !== null) break;
  }
  return chooseBounds(readings);
}

/**
 * The best vector width, by the highest rate of each width. It is 512 bits only if all runs passed with correct
 * results, and 512 bits are clearly faster.
 * @param {readonly WidthMeasurement[]} measurements at least one of each width, or up to the first failure
 * @returns {VectorChoice}
 */
export function chooseVectorBits(measurements) {
  for (const measurement of measurements) {
    const failure = failureOf(measurement);
    if (failure !== null)
      return { bits: null, why: `lavapipe's own vector width, because with ${measurement.bits} bits ${failure}` };
  }
  const best = (/** @type {number} */ bits) =>
    Math.max(...measurements.filter((measured) => measured.bits === bits).map(({ value }) => value?.gflops ?? NaN));
  const [narrow, wide] = [best(256), best(512)];
  const rates = `vectors of 512 bits: ${wide.toFixed(0)} GFLOP/s, of 256: ${narrow.toFixed(0)}`;
  return wide >= MIN_SPEEDUP * narrow
    ? { bits: 512, why: rates }
    : { bits: null, why: `${rates}; that is less than 10 % faster, so lavapipe keeps its own width` };
}

/** Why a measurement failed; null if it passed. @param {WidthMeasurement} measurement @returns {string | null} */
function failureOf({ value, problem }) {
  if (value === null) return problem;
  return value.passed ? null : `a product is wrong by ${value.error ?? 'NaN'} (at most ${value.tolerance})`;
}

/**
 * Measures lavapipe's vector widths, if the processor has vectors of 512 bits.
 * @param {object} options
 * @param {string} options.root
 * @param {string} options.folder for compiled shaders
 * @param {ChildDriver} options.driver
 * @param {boolean} options.checksBounds whether the driver checks bounds
 * @param {(line: string) => void} options.say
 * @returns {VectorChoice}
 */
export function measureVectorBits({ root, folder, driver, checksBounds, say }) {
  if (!hasAvx512(readCpuinfo()))
    return { bits: null, why: "lavapipe's own vector width, because this processor has no AVX-512" };
  say('measuring lavapipe with vectors of 256 and 512 bits');
  /** @type {WidthMeasurement[]} */
  const measurements = [];
  // Each width is measured twice, alternately, so that a temporary load of the machine does not decide.
  for (const bits of /** @type {const} */ ([256, 512, 256, 512])) {
    const shaders = path.join(folder, `lavapipe-${bits}`);
    mkdirSync(shaders, { recursive: true });
    const answer = /** @type {{ value: WidthReport | null, problem: string | null }} */ (
      askChild(program('vector-width.ts'), root, driver, {
        LP_NATIVE_VECTOR_WIDTH: String(bits),
        MESA_SHADER_CACHE_DIR: shaders,
        DSRCNN_ROBUSTNESS: checksBounds ? 'off' : 'on',
      })
    );
    measurements.push({ bits, ...answer });
    if (!answer.value?.passed) break;
  }
  return chooseVectorBits(measurements);
}
