// @ts-check
/**
 * Chooses a driver, in this order: a real GPU; lavapipe (Mesa 23 or newer), which is installed with apt if that is
 * allowed; SwiftShader, which an npm package contains.
 */
import path from 'node:path';
import { SetupError } from './setup-error.mjs';
import { isMounted } from './vulkan-manifests.mjs';

/** @typedef {import('../../engine/node/setup-contract.mjs').Request} Request */
/** @typedef {import('../../engine/node/driver-file.mjs').Adapter} Adapter */
/** @typedef {import('../../engine/node/driver-file.mjs').StoredChoice} StoredChoice */
/** @typedef {import('./child.mjs').ChildDriver} ChildDriver */
/** @typedef {import('./probe.mjs').Probe} Probe */
/** @typedef {import('./lavapipe.mjs').BoundsChoice} BoundsChoice */
/** @typedef {import('./lavapipe.mjs').VectorChoice} VectorChoice */
/** @typedef {import('./swiftshader.mjs').SwiftShader} SwiftShader */
/** @typedef {Omit<StoredChoice, 'installed' | 'processor'>} Choice */
/**
 * The functions through which `chooseDriver` uses the machine. Tests replace them.
 * @typedef {object} System
 * @property {boolean} linux
 * @property {() => string[]} manifests all installed Vulkan driver manifests
 * @property {(manifests: string[], loader: string | null) => Probe} probe
 * @property {(manifests: string[], loader: string | null) => BoundsChoice} bounds whether lavapipe checks bounds
 * @property {(manifests: string[], loader: string | null, checksBounds: boolean) => VectorChoice} vectorBits
 *   the best width of lavapipe's vectors, measured without Dawn's bounds checks if `checksBounds`
 * @property {() => string | null} installLavapipe null if it is installed now, else the reason why not
 * @property {() => Promise<SwiftShader | null>} swiftShader null if the package has no build for this processor
 * @property {() => string} lavapipeHint how the user installs lavapipe
 */
/**
 * A driver that Dawn accepts. `borrowed`: the loader of SwiftShader, if the system has none.
 * @typedef {{ adapter: Adapter, manifests: string[], probed: Probe, borrowed: string | null }} Accepted
 */

/** @param {Adapter} adapter */
const nameOf = ({ description, device }) => description || device;

/**
 * Tries the drivers in order, and returns the first that Dawn accepts.
 * @param {Request} request
 * @param {System} system
 * @param {(line: string) => void} say
 * @returns {Promise<Choice>}
 * @throws SetupError with every attempt, if Dawn accepts none
 */
export async function chooseDriver(request, system, say) {
  const search = new Search(request, system, say);
  if (!system.linux) return search.otherSystem();
  const choice = (await search.gpu()) ?? (await search.lavapipe()) ?? (await search.swiftShader());
  if (choice) return choice;
  const byDriver = request === 'auto' ? '' : ` by driver ${request}`;
  const hint = request === 'swiftshader' || request === 'gpu' ? '' : `\nto install lavapipe: ${system.lavapipeHint()}`;
  throw new SetupError(`no WebGPU adapter${byDriver}: ${search.attempts.join('; ')}${hint}`);
}

/** A search for a driver. A step without success returns null and adds its reason to `attempts`. */
class Search {
  /** The attempts so far, for the user. @type {string[]} */
  attempts = [];
  /** Why lavapipe was not installed. */
  noLavapipe = '';

  /**
   * @param {Request} request
   * @param {System} system
   * @param {(line: string) => void} say
   */
  constructor(request, system, say) {
    this.request = request;
    this.system = system;
    this.say = say;
  }

  /** Whether the request allows this driver. @param {Request} name */
  includes(name) {
    return this.request === 'auto' || this.request === name;
  }

  /** Systems other than Linux: their own adapter. @returns {Choice} */
  otherSystem() {
    const { request } = this;
    if (request === 'lavapipe' || request === 'swiftshader')
      throw new SetupError(`driver ${request} is for Linux; elsewhere WebGPU has the system's own Metal or Direct3D`);
    const probed = this.system.probe([], null);
    const { adapter, problem } = probed;
    if (adapter && !adapter.fallback) return this.choice('gpu', { adapter, manifests: [], probed, borrowed: null });
    this.attempts.push(adapter ? `no GPU, only ${nameOf(adapter)}` : `no adapter: ${problem}`);
    if (adapter && request === 'auto')
      return this.choice('software', { adapter, manifests: [], probed, borrowed: null });
    throw new SetupError(`no WebGPU adapter: ${this.attempts.join('; ')}`);
  }

  /** An installed GPU. @returns {Promise<Choice | null>} */
  async gpu() {
    if (!this.includes('gpu')) return null;
    const installed = this.system.manifests();
    if (installed.length === 0) {
      this.attempts.push('no GPU: no Vulkan driver is installed');
      return null;
    }
    const mounted = installed.filter(isMounted);
    for (const manifests of mounted.length ? [[], mounted] : [[]]) {
      const accepted = await this.probe(manifests);
      const { adapter, problem } = accepted.probed;
      if (adapter && !adapter.fallback) return this.choice('gpu', { ...accepted, adapter });
      const by = manifests.length ? ` by ${manifests.join(', ')}` : '';
      this.attempts.push(`no GPU${by}: ${adapter ? `only ${nameOf(adapter)}` : problem}`);
    }
    return null;
  }

  /** The installed lavapipe, or one that apt installs. @returns {Promise<Choice | null>} */
  async lavapipe() {
    if (!this.includes('lavapipe')) return null;
    const present = await this.tryLavapipe();
    if (present) return present;
    const refusal = this.system.installLavapipe();
    this.noLavapipe = `lavapipe not installed: ${refusal}`;
    this.attempts.push(refusal === null ? 'lavapipe installed with apt' : this.noLavapipe);
    return refusal === null ? this.tryLavapipe() : null;
  }

  /** The installed lavapipe. @returns {Promise<Choice | null>} */
  async tryLavapipe() {
    const manifests = this.system.manifests().filter((file) => /^lvp_icd.*\.json$/.test(path.basename(file)));
    if (manifests.length === 0) return null;
    const accepted = await this.probe(manifests);
    const { adapter, problem } = accepted.probed;
    if (!adapter) {
      this.attempts.push(`the installed lavapipe is not accepted: ${problem}`);
      return null;
    }
    // The test of bounds comes first: it decides whether the widths are measured with Dawn's checks.
    const bounds = this.system.bounds(manifests, accepted.borrowed);
    const vectors = this.system.vectorBits(manifests, accepted.borrowed, bounds.checks);
    return {
      ...this.choice('lavapipe', { ...accepted, adapter }, [bounds.why, vectors.why]),
      vectorBits: vectors.bits,
      checksBounds: bounds.checks,
    };
  }

  /** SwiftShader from the npm package. @returns {Promise<Choice | null>} */
  async swiftShader() {
    if (!this.includes('swiftshader')) return null;
    const unpacked = await this.system.swiftShader();
    if (!unpacked) {
      this.attempts.push(`SwiftShader: @sparticuz/chromium is built for x64, this is ${process.arch}`);
      return null;
    }
    this.say('SwiftShader unpacked from the npm package @sparticuz/chromium');
    const accepted = await this.probe([unpacked.manifest]);
    const { adapter, problem } = accepted.probed;
    if (!adapter) {
      this.attempts.push(`SwiftShader does not start: ${problem}`);
      return null;
    }
    const hint = `${this.noLavapipe}; for a driver several times as fast: ${this.system.lavapipeHint()}`;
    return { ...this.choice('swiftshader', { ...accepted, adapter }), hint: this.request === 'auto' ? hint : null };
  }

  /**
   * Probes a driver. Many machines, mostly containers, have a GPU's driver but no Vulkan loader. They use the loader of
   * SwiftShader.
   * @param {string[]} manifests
   */
  async probe(manifests) {
    const probed = this.system.probe(manifests, null);
    const swiftShader = probed.adapter || probed.loader ? null : await this.system.swiftShader();
    if (!swiftShader) return { manifests, probed, borrowed: null };
    const { loader } = swiftShader;
    return { manifests, probed: this.system.probe(manifests, loader), borrowed: loader };
  }

  /**
   * The choice of an accepted driver, with its reasons.
   * @param {Choice['driver']} driver
   * @param {Accepted} accepted
   * @param {string[]} [details] further reasons
   * @returns {Choice}
   */
  choice(driver, { adapter, manifests, probed, borrowed }, details = []) {
    const reasons = [...this.attempts, `Dawn accepts ${nameOf(adapter)}`, ...details];
    return {
      driver,
      manifests,
      loader: borrowed,
      systemLoader: borrowed ? null : probed.loader,
      vectorBits: null,
      checksBounds: false,
      adapter,
      why: `${this.request === 'auto' ? '' : `${this.request} was asked for; `}${reasons.join('; ')}`,
      hint: null,
    };
  }
}
