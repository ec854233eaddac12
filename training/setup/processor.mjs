// @ts-check
/** Reads the properties of the processor that lavapipe runs on. */
import { existsSync, readFileSync } from 'node:fs';

/** The flags that LLVM needs for vectors of 512 bits of every type. */
const AVX512 = ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl'];

/** The text of /proc/cpuinfo; empty if there is none. */
export const readCpuinfo = () => (existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '');

/** @param {string} cpuinfo text of /proc/cpuinfo */
export function hasAvx512(cpuinfo) {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1].trim().split(/\s+/) ?? [];
  return AVX512.every((flag) => flags.includes(flag));
}

/**
 * The properties of the processor that decide the vector width. Virtual machines use one model name for
 * processors with and without AVX-512.
 * @param {string} cpuinfo text of /proc/cpuinfo
 */
export function processorName(cpuinfo) {
  const model = /^model name\s*:(.*)$/m.exec(cpuinfo)?.[1].trim() ?? 'unknown';
  return `${model}, ${hasAvx512(cpuinfo) ? 'with' : 'without'} AVX-512`;
}
