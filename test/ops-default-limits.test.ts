/** Every op of the engine with nothing but WebGPU's defaults: limits, and no subgroups. */
import { defaultLimitsDevice } from './devices.ts';
import { OP_NAMES, testOps } from './op-suite.ts';

testOps([await defaultLimitsDevice()], OP_NAMES);
