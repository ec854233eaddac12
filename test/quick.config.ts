/**
 * The quick tests (`npm run test:quick`): one adapter, no long trainings. `npm test` runs all files.
 */
import { LONG, project, withProjects } from './vitest.config.ts';

/** Files that take more than a few seconds on two cores with a warm shader cache, without those in LONG. */
const SLOW = [
  'test/ablation.test.ts',
  'test/bench.test.ts',
  'test/golden-default-limits.test.ts',
  'test/matching.test.ts',
  'test/optim.test.ts',
  'test/pretrained.test.ts',
  'test/profiler.test.ts',
  'test/run-length.test.ts',
  'test/second-detector.test.ts',
  'test/training-control.test.ts',
  'test/tuner.test.ts',
];

export default withProjects([project('adapter', { include: ['test/**/*.test.ts'], exclude: [...LONG, ...SLOW] })]);
