/**
 * What set-up starts as a program of its own for each width of lavapipe's vectors that it compares (LP_NATIVE_VECTOR_WIDTH is read when the driver is
 * loaded): prints whether products of matrices are right and how fast they are, as JSON.
 */
import { openDevice } from '../../engine/node/index.ts';
import { passes, testMatmul, type SelfTest } from './self-test.ts';

export interface WidthReport {
  /** Largest absolute error of a product; null in JSON where it is NaN. */
  readonly error: number | null;
  readonly tolerance: number;
  readonly passed: boolean;
  readonly gflops: number;
  /** Lanes; 0 where kernels use no subgroups. */
  readonly subgroupSize: number;
}

/** Of 0.3 s each. The best one counts: other programs can only slow one down. */
const ROUNDS = 4;

async function measure(): Promise<WidthReport> {
  const device = await openDevice({ driver: null, tuning: 'off' });
  try {
    const tests: SelfTest[] = [];
    for (let round = 0; round < ROUNDS; round++) tests.push(await testMatmul(device));
    return {
      error: Math.max(...tests.map(({ error }) => error)),
      tolerance: tests[0].tolerance,
      passed: tests.every(passes),
      gflops: Math.max(...tests.map(({ rate }) => rate)),
      subgroupSize: device.subgroupSize,
    };
  } finally {
    device.destroy();
  }
}

try {
  process.stdout.write(`${JSON.stringify(await measure())}\n`);
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error)); // one line, which set-up repeats
  process.exitCode = 1;
}
