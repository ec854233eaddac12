/**
 * Tests that compare the engine's ops, forward and gradient, with float64 references. The environment variable
 * `OPS=relu,exp` limits a run to these ops.
 */
import { describe, test } from 'vitest';
import { ops, type OpName } from '../engine/ops/table.ts';
import type { TestDevice } from './devices.ts';
import { opCases } from './op-cases/index.ts';
import { checkOp, type OpCase } from './op-harness.ts';

const chosen = process.env.OPS?.split(',');
export const OP_NAMES = Object.keys(opCases) as OpName[];

/** Registers the tests of ops on devices. */
export function testOps(devices: readonly TestDevice[], names: readonly OpName[]): void {
  const selected = names.filter((name) => !chosen || chosen.includes(name));
  if (selected.length === 0) return;
  describe.each(devices)('$label', ({ device }) => {
    describe.each(selected)('%s', (name) => {
      test.each<OpCase>(opCases[name])('$name', async (op) => checkOp(device, op, ops[name].differentiable));
    });
  });
}
