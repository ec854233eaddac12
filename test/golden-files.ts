/** Reads the golden files of models: results of the method in PyTorch (see test/golden/README.md). */
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { readSafetensors, type SafetensorsFile } from '../engine/index.ts';

export const GOLDEN_NAMES = [
  'r18-staircase-ota',
  'r18-three-images',
  'r34-gn-fixed-k',
  'r50-plain-hungarian',
  'r50-sparse-rcnn',
] as const;
export type GoldenName = (typeof GOLDEN_NAMES)[number];

export interface Golden extends SafetensorsFile {
  /** The reference's Config as JSON (snake_case names). */
  readonly config: Readonly<Record<string, unknown>>;
  readonly meta: { readonly temperature: number; readonly sizes: readonly string[] };
  /** Values of a float tensor. */
  floats(name: string): { shape: readonly number[]; data: Float32Array<ArrayBuffer> };
  /** Values of an integer tensor as numbers. */
  integers(name: string): { shape: readonly number[]; data: number[] };
}

export function readGolden(name: GoldenName): Golden {
  const packed = gunzipSync(readFileSync(new URL(`golden/${name}.safetensors.gz`, import.meta.url)));
  const file = readSafetensors(new Uint8Array(packed).buffer, `${name}.safetensors.gz`);
  const entry = (tensor: string) => {
    const found = file.tensors.get(tensor);
    if (!found) throw new Error(`${name}: expected a tensor ${tensor}, got none`);
    return found;
  };
  return {
    ...file,
    config: JSON.parse(file.metadata.config),
    meta: JSON.parse(file.metadata.meta),
    floats(tensor) {
      const { shape, data } = entry(tensor);
      if (!(data instanceof Float32Array)) throw new Error(`${name}: ${tensor}: expected f32 values, got others`);
      return { shape, data };
    },
    integers(tensor) {
      const { shape, data } = entry(tensor);
      if (!(data instanceof BigInt64Array)) throw new Error(`${name}: ${tensor}: expected i64 values, got others`);
      return { shape, data: Array.from(data, Number) };
    },
  };
}
