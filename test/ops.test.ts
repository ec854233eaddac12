/** Every op of the engine on the current adapter. Ops with variants are also tested with forced variants. */
import { adapterDevice, forcedDevices } from './devices.ts';
import { OP_NAMES, testOps } from './op-suite.ts';

testOps([await adapterDevice()], OP_NAMES);
testOps(await forcedDevices(), ['matmul', 'linear', 'conv2d', 'roiAlign', 'multiheadAttention', 'dynamicInteraction']);
