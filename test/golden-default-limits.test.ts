/** The whole model compared with PyTorch runs in float64, at WebGPU's default limits and without subgroups. */
import { testGolden, WITHOUT_SUBGROUPS } from './golden-suite.ts';

testGolden([WITHOUT_SUBGROUPS]);
