/** The whole model against recorded PyTorch runs in float64 with nothing but WebGPU's defaults: limits, and no subgroups. */
import { testGolden, WITHOUT_SUBGROUPS } from './golden-suite.ts';

testGolden([WITHOUT_SUBGROUPS]);
