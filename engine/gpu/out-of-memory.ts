/** The error of work that needs more memory than the device has. */

/**
 * The device has too little memory, or no buffers as large as a tensor. Work that was submitted after it may be lost or
 * wrong: read results from before the error only, and open the device again.
 */
export class OutOfMemoryError extends RangeError {
  override readonly name = 'OutOfMemoryError';
}

/** Whether WebGPU or a driver says that memory ran out. Drivers also lose the device for this reason. */
export const saysOutOfMemory = (message: string): boolean => /out[ _-]of[ _-](\w+[ _-])?memory/i.test(message);
