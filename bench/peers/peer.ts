/** The interface of a peer, and what all peers share: the browser's objects in Node, and other layouts of tensors. */
import { create } from 'webgpu';
import { dawnFlags } from '../../engine/node/index.ts';
import type { Inputs, OpCase } from '../case.ts';
import type { Job } from '../measure.ts';
import type { HostArray } from '../references/reference.ts';

/** A peer's job for a row. */
export interface PeerJob extends Job {
  /** Computed values in our layout. */
  readonly values: () => Promise<ArrayLike<number>>;
  /** Frees its inputs. */
  readonly dispose: () => void;
}

export interface Peer {
  readonly name: string;
  /** A job for a part, with our inputs and our upstream gradient; null if the peer does not have the part. */
  job(benchCase: OpCase, inputs: Inputs, upstream: HostArray, part: string): PeerJob | null;
}

/**
 * Defines the browser's global objects, which the peers look for; they use only `navigator.gpu`. Our device must be
 * open: it has applied the choice of the driver. Dawn's flags are ours.
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

/** Transposes [N, H, W, C] to [N, C, H, W], or with `back` the other way. `shape` is the shape of the data. */
export function transposeMaps(
  data: ArrayLike<number>,
  [n, ...rest]: readonly number[],
  back = false,
): Float32Array<ArrayBuffer> {
  const [h, w, c] = back ? [rest[1], rest[2], rest[0]] : rest;
  const out = new Float32Array(data.length);
  for (let i = 0; i < n; i++)
    for (let at = 0; at < h * w; at++)
      for (let k = 0; k < c; k++) {
        const [last, first] = [(i * h * w + at) * c + k, (i * c + k) * h * w + at];
        if (back) out[last] = data[first];
        else out[first] = data[last];
      }
  return out;
}

/** Transposes [kh, kw, C, O] to [O, C, kh, kw], or with `back` the other way. */
export function transposeWeight(
  data: ArrayLike<number>,
  [kh, kw, c, o]: readonly number[],
  back = false,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let at = 0; at < kh * kw; at++)
    for (let i = 0; i < c; i++)
      for (let j = 0; j < o; j++) {
        const [ours, theirs] = [(at * c + i) * o + j, (j * c + i) * kh * kw + at];
        if (back) out[ours] = data[theirs];
        else out[theirs] = data[ours];
      }
  return out;
}
