/**
 * The whole model compared with PyTorch runs in float64: with the kernels that this adapter chooses, at the default
 * limits, and with forced variants.
 */
import { testGolden, VARIANT_NAMES, WITHOUT_SUBGROUPS } from './golden-suite.ts';

testGolden(VARIANT_NAMES.filter((variant) => variant !== WITHOUT_SUBGROUPS));
