/** The quick tests (`npm run test:quick`): one adapter, without the test files that take longer than a few seconds. */
import { project, withProjects } from './vitest.config.ts';

/** Long on two cores with a warm shader cache. The full tests run them. */
const LONG = ['test/ops.test.ts'];

export default withProjects([project('adapter', { include: ['test/**/*.test.ts'], exclude: LONG })]);
