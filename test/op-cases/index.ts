/** The table of op cases: an op without cases does not compile. */
import type { OpName } from '../../engine/ops/index.ts';
import type { OpCase } from '../op-harness.ts';
import { unaryCases } from './unary.ts';
import { roiAlignCases } from './roi-align.ts';
import { normCases } from './norm.ts';

export const opCases: Record<OpName, OpCase[]> = {
  ...unaryCases,
  ...roiAlignCases,
  ...normCases,
};
