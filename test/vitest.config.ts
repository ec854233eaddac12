/**
 * Test runner configuration: forks (Dawn does not like worker threads), long timeouts (software adapters compile slowly).
 *
 * Everything runs on the adapter that set-up chose. Where that is not SwiftShader, what depends on the adapter runs on SwiftShader as well
 * (subgroups of 4 instead of 8 or 16, another compiler): ops, matching, optimisers, f16 (which SwiftShader has not), accesses out of bounds, and the model against its golden files.
 * Variants that only the tuner chooses are held against the plain ones wherever it runs.
 *
 * Where set-up chose vectors of 512 bits for lavapipe, kernels that are not for small subgroups compile three times as long: the files that are mostly about those run with its usual
 * vectors of 256 bits, so that both widths are tested; among them captures, which are held against the same kernels run without.
 */
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { readDriverChoice } from '../engine/node/index.ts';

/** No test shall depend on what its user has tuned. */
const UNTUNED = { DSRCNN_TUNING: 'off' };
const root = new URL('..', import.meta.url).pathname;
const everywhere = {
  root,
  pool: 'forks' as const,
  testTimeout: 180_000,
  hookTimeout: 180_000,
  sequence: { groupOrder: 0 },
};
const ON_BOTH_ADAPTERS = [
  'test/bounds.test.ts',
  'test/ops.test.ts',
  'test/ops-default-limits.test.ts',
  'test/golden.test.ts',
  'test/golden-default-limits.test.ts',
  'test/matching.test.ts',
  'test/optim.test.ts',
  'test/half-precision.test.ts',
];
const WITH_USUAL_VECTORS = [
  'test/ops-default-limits.test.ts',
  'test/golden-default-limits.test.ts',
  'test/tuned-variants.test.ts',
  'test/half-precision.test.ts',
  'test/capture.test.ts',
];
const choice = readDriverChoice();
const wide = choice?.driver === 'lavapipe' && choice.vectorBits !== null && !process.env.LP_NATIVE_VECTOR_WIDTH;
const twice = process.platform === 'linux' && process.arch === 'x64' && choice?.driver !== 'swiftshader';

/** The longest first, SwiftShader's before the other adapter's: one that begins last would be waited for alone. A fresh clone knows no durations that the runner could sort by. */
const LONGEST = [
  'test/ops.test.ts',
  'test/golden.test.ts',
  'test/training.test.ts',
  'test/tuned-variants.test.ts',
  'test/ops-default-limits.test.ts',
  'test/half-precision.test.ts',
  'test/cli.test.ts',
  'test/loss-curve.test.ts',
  'test/capture.test.ts',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId, project }: TestSpecification): number => {
      const i = LONGEST.findIndex((file) => moduleId.endsWith(`/${file}`));
      return i < 0 ? LONGEST.length : i - (project.name === 'swiftshader' ? 0.5 : 0);
    };
    return [...files].sort((a, b) => place(a) - place(b));
  }
}

export default defineConfig({
  root,
  test: {
    maxWorkers: 2,
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          ...everywhere,
          name: 'adapter',
          include: ['test/**/*.test.ts'],
          exclude: wide ? WITH_USUAL_VECTORS : [],
          env: UNTUNED,
        },
      },
      ...(wide
        ? [
            {
              test: {
                ...everywhere,
                name: 'adapter, 256 bits',
                include: WITH_USUAL_VECTORS,
                env: { ...UNTUNED, LP_NATIVE_VECTOR_WIDTH: '256' },
              },
            },
          ]
        : []),
      ...(twice
        ? [
            {
              test: {
                ...everywhere,
                name: 'swiftshader',
                include: ON_BOTH_ADAPTERS,
                env: { ...UNTUNED, DSRCNN_DRIVER: 'swiftshader' },
                globalSetup: ['test/prepare-swiftshader.ts'],
              },
            },
          ]
        : []),
    ],
  },
});
