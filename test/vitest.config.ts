/**
 * The test runner: forks (Dawn does not run in worker threads) and long timeouts (software adapters compile slowly).
 *
 * All tests run on the adapter that set-up chose. Where that is not SwiftShader, tests that depend on the adapter
 * also run on SwiftShader. It has subgroups of 4 lanes instead of 8 or 16, another compiler, and no f16. Tests of
 * variants that only the tuner chooses compare them with the plain variants, on the chosen adapter.
 *
 * Where set-up chose vectors of 512 bits for lavapipe, kernels without small subgroups compile three times as long.
 * Test files that mostly use such kernels run with lavapipe's own vectors of 256 bits. So both widths are tested.
 * Among these files is the test of captures, which compares a capture with the same kernels without one.
 */
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { readDriverChoice } from '../engine/node/index.ts';
import { removeDawnWarnings } from '../training/setup/dawn-warnings.mjs';

export const ROOT = new URL('..', import.meta.url).pathname;
const TIMEOUT = 180_000;

const ON_BOTH_ADAPTERS = [
  'test/bounds.test.ts',
  'test/ops.test.ts',
  'test/ops-default-limits.test.ts',
  'test/golden.test.ts',
  'test/golden-default-limits.test.ts',
  'test/linear-sum-assignment.test.ts',
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
  'test/capture-training.test.ts',
];
/**
 * Long test files, the longest first. They start first, and on SwiftShader before the other adapter: otherwise the run
 * would wait at its end for a long file. A fresh clone has no durations that the runner could sort by.
 */
export const LONG = [
  'test/ops.test.ts',
  'test/golden.test.ts',
  'test/training.test.ts',
  'test/tuned-variants.test.ts',
  'test/ops-default-limits.test.ts',
  'test/half-precision.test.ts',
  'test/cli.test.ts',
  'test/loss-curve.test.ts',
  'test/capture-training.test.ts',
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId, project }: TestSpecification): number => {
      const i = LONG.findIndex((file) => moduleId.endsWith(`/${file}`));
      return i < 0 ? LONG.length : i - (project.name === 'swiftshader' ? 0.5 : 0);
    };
    return [...files].sort((a, b) => place(a) - place(b));
  }
}

/** A project of tests. No test depends on the user's tuned choices, or writes to the user's cache of images. */
export function project(
  name: string,
  { env, ...options }: NonNullable<TestProjectInlineConfiguration['test']>,
): TestProjectInlineConfiguration {
  return {
    test: {
      root: ROOT,
      pool: 'forks',
      testTimeout: TIMEOUT,
      hookTimeout: TIMEOUT,
      sequence: { groupOrder: 0 },
      name,
      env: { DSRCNN_TUNING: 'off', DSRCNN_IMAGE_CACHE: 'off', ...env },
      ...options,
    },
  };
}

/** The whole configuration. */
export const withProjects = (projects: TestProjectInlineConfiguration[]) =>
  defineConfig({ root: ROOT, test: { maxWorkers: 2, sequence: { sequencer: LongestFirst }, projects } });

/** Removes Dawn's warnings from the stderr of the test processes, which this process passes on. */
function hideDawnWarnings(): void {
  const { stderr } = process;
  const write = stderr.write.bind(stderr) as (chunk: string | Uint8Array, ...rest: unknown[]) => boolean;
  stderr.write = (chunk: string | Uint8Array, ...rest: unknown[]): boolean =>
    write(
      typeof chunk === 'string'
        ? removeDawnWarnings(chunk)
        : Buffer.from(removeDawnWarnings(Buffer.from(chunk).toString('latin1')), 'latin1'),
      ...rest,
    );
}
hideDawnWarnings();

const choice = readDriverChoice();
const wide = choice?.driver === 'lavapipe' && choice.vectorBits !== null && !process.env.LP_NATIVE_VECTOR_WIDTH;
const swiftShaderToo = process.platform === 'linux' && process.arch === 'x64' && choice?.driver !== 'swiftshader';

export default withProjects([
  project('adapter', { include: ['test/**/*.test.ts'], exclude: wide ? WITH_USUAL_VECTORS : [] }),
  ...(wide
    ? [project('adapter, 256 bits', { include: WITH_USUAL_VECTORS, env: { LP_NATIVE_VECTOR_WIDTH: '256' } })]
    : []),
  ...(swiftShaderToo
    ? [
        project('swiftshader', {
          include: ON_BOTH_ADAPTERS,
          env: { DSRCNN_DRIVER: 'swiftshader' },
          globalSetup: ['test/prepare-swiftshader.ts'],
        }),
      ]
    : []),
]);
