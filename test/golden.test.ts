/** The whole model against recorded PyTorch runs in float64: with the kernels that the adapter at hand chooses, at the default limits, and with variants forced. */
import { testGolden, VARIANT_NAMES, WITHOUT_SUBGROUPS } from './golden-suite.ts';

testGolden(VARIANT_NAMES.filter((variant) => variant !== WITHOUT_SUBGROUPS));
