/**
 * A program that set-up runs for each width of lavapipe's vectors, because lavapipe reads LP_NATIVE_VECTOR_WIDTH only
 * when it is loaded. It prints as JSON whether matrix products are correct, and how fast they are.
 */
import { errorMessage } from '../../engine/core/errors.ts';
import { openDevice } from '../../engine/node/index.ts';
import { passes, testMatmul, type SelfTest } from './self-test.ts';

export interface WidthReport {
  /** Largest absolute error of a product. JSON has null for NaN. */
  readonly error: number | null;
  readonly tolerance: number;
  readonly passed: boolean;
  readonly gflops: number;
}

/** Rounds of 0.3 s each. The best round counts, because other programs can only slow a round down. */
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
    };
  } finally {
    device.destroy();
  }
}

try {
  process.stdout.write(`${JSON.stringify(await measure())}\n`);
} catch (error) {
  // Set-up repeats this line.
  console.error(errorMessage(error));
  process.exitCode = 1;
}
