/** Every op of the engine, forward and gradient, against float64 references. `OPS=relu,exp` in the environment narrows the run while working on an op. */
import { describe, test } from 'vitest';
import { ops, type OpName } from '../engine/ops/index.ts';
import { opCases } from './op-cases/index.ts';
import { forcedDevices, testDevices } from './devices.ts';
import { checkOp, type OpCase } from './op-harness.ts';

const devices = await testDevices();
const forced = await forcedDevices();
const chosen = process.env.OPS?.split(',');
const names = (Object.keys(opCases) as OpName[]).filter((name) => !chosen || chosen.includes(name));
const varied = (['matmul', 'linear', 'conv2d', 'roiAlign', 'multiheadAttention', 'dynamicInteraction'] as const).filter((name) => names.includes(name));

describe.each(devices)('$label', ({ device }) => {
  describe.each(names)('%s', (name) => {
    test.each(opCases[name])('$name', async (op) => checkOp(device, op, ops[name].differentiable));
  });
});

if (varied.length > 0) {
  describe.each(forced)('$label', ({ device }) => {
    describe.each(varied)('%s', (name) => {
      test.each<OpCase>(opCases[name])('$name', async (op) => checkOp(device, op, ops[name].differentiable));
    });
  });
}
