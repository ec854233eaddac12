/** Every op of the engine with WebGPU's default limits and without subgroups. */
import { defaultLimitsDevice } from './devices.ts';
import { OP_NAMES, testOps } from './op-suite.ts';

testOps([await defaultLimitsDevice()], OP_NAMES);
