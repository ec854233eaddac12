/** The interface of a peer, and the browser's global objects that peers need in Node. */
import { create } from 'webgpu';
import { dawnFlags } from '../../engine/node/index.ts';
import type { Inputs, OpCase } from '../case.ts';
import type { Job } from '../measure.ts';
import type { HostArray } from '../references/reference.ts';

/** A peer's job for a row. */
export interface PeerJob extends Job {
  /** The computed values in our layout. */
  readonly values: () => Promise<ArrayLike<number>>;
  /** Frees its inputs. */
  readonly dispose: () => void;
}

export interface Peer {
  readonly name: string;
  /** Makes a job for a part, with our inputs and our upstream gradient; null if the peer does not have the part. */
  job(benchCase: OpCase, inputs: Inputs, upstream: HostArray, part: string): PeerJob | null;
}

/**
 * Defines the browser's global objects that the peers look for. They use only `navigator.gpu`. Open our device first,
 * because it applies the choice of the driver. Dawn's flags are the same as for our device.
 */
export function pretendBrowser(): void {
  const canvas = { getContext: () => null };
  const define = (name: string, value: unknown): void => {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  };
  define('navigator', { gpu: create(dawnFlags()), userAgent: 'node', platform: 'linux', vendor: '' });
  define('self', globalThis);
  define('window', globalThis);
  define('document', { createElement: () => canvas });
  define(
    'OffscreenCanvas',
    class {
      getContext(): null {
        return null;
      }
    },
  );
}
