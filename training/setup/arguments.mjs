// @ts-check
/** The arguments of set-up, and its help text. */
import { REQUESTS } from '../../engine/node/setup-contract.mjs';
import { SetupError } from './setup-error.mjs';

/** @typedef {import('../../engine/node/setup-contract.mjs').Request} Request */
/**
 * @typedef {object} Arguments
 * @property {boolean} help
 * @property {boolean} driver whether to choose a driver; false: only the npm packages
 * @property {Request | null} request null: the stored request
 * @property {boolean} keep whether to store the request for later runs
 */

export const HELP = `usage: npm run setup -- [--no-driver] [--driver auto|gpu|lavapipe|swiftshader]

Installs the npm packages and chooses the WebGPU driver. Does nothing if both are done.
All other npm scripts run it first.

  --no-driver      only install the npm packages
  --driver NAME    choose again and keep the choice:
                   auto (a GPU, else lavapipe, else SwiftShader), gpu, lavapipe or swiftshader
  --help           print this text

environment:
  DSRCNN_DRIVER=NAME            the same names, for one run only:  DSRCNN_DRIVER=swiftshader npm test
  VK_DRIVER_FILES, VK_ICD_FILENAMES
                                the Vulkan loader uses the driver named here, and set-up chooses none
                                (unless DSRCNN_DRIVER is set)
  LP_NATIVE_VECTOR_WIDTH=256    bits of lavapipe's vectors (or 512), for one run
  DSRCNN_ROBUSTNESS=on          Dawn's bounds checks on every driver, for one run, to find errors in kernels
                                (off: no checks by Dawn, at your own risk)`;

/**
 * A driver's name as a request.
 * @param {unknown} name
 * @param {string} source the option or variable, for errors
 * @returns {Request}
 */
function asRequest(name, source) {
  const request = REQUESTS.find((known) => known === name);
  if (request === undefined)
    throw new SetupError(`${source}: expected one of ${REQUESTS.join(', ')}, got ${JSON.stringify(name ?? '')}`);
  return request;
}

/**
 * Reads the command line and DSRCNN_DRIVER. The command line takes precedence.
 * @param {readonly string[]} argv
 * @param {NodeJS.ProcessEnv} environment
 * @returns {Arguments}
 */
export function parseArguments(argv, environment) {
  /** @type {Arguments} */
  const parsed = { help: false, driver: true, request: null, keep: false };
  if (environment.DSRCNN_DRIVER) parsed.request = asRequest(environment.DSRCNN_DRIVER, 'DSRCNN_DRIVER');
  for (let i = 0; i < argv.length; i++) {
    const [name, inline] = argv[i].startsWith('--driver=')
      ? ['--driver', argv[i].slice('--driver='.length)]
      : [argv[i], undefined];
    if (name === '--help' || name === '-h') parsed.help = true;
    else if (name === '--no-driver') parsed.driver = false;
    else if (name === '--driver') {
      parsed.request = asRequest(inline ?? argv[++i], '--driver');
      parsed.keep = true;
    } else throw new SetupError(`unknown option ${name}\n\n${HELP}`);
  }
  if (parsed.keep && !parsed.driver) throw new SetupError('--driver and --no-driver exclude each other');
  return parsed;
}
