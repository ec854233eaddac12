/** The test cases of all ops. An op without cases does not compile. */
import type { OpName } from '../../engine/ops/table.ts';
import type { OpCase } from '../op-harness.ts';
import { unaryCases } from './unary.ts';
import { conv2dCases } from './conv2d.ts';
import { poolingCases } from './pooling.ts';
import { resizeCases } from './resize.ts';
import { matmulFamilyCases } from './matmul.ts';
import { roiAlignCases } from './roi-align.ts';
import { normCases } from './norm.ts';
import { attentionCases } from './attention.ts';
import { boxCases } from './boxes.ts';
import { softmaxCases } from './softmax.ts';
import { binaryCases } from './binary.ts';
import { reduceCases } from './reduce.ts';
import { layoutCases } from './layout.ts';
import { dynamicInteractionCases } from './dynamic-interaction.ts';
import { setLossCases } from './set-loss.ts';

export const opCases: Record<OpName, OpCase[]> = {
  ...unaryCases,
  ...conv2dCases,
  ...poolingCases,
  ...resizeCases,
  ...matmulFamilyCases,
  ...roiAlignCases,
  ...normCases,
  ...attentionCases,
  ...boxCases,
  ...softmaxCases,
  ...binaryCases,
  ...reduceCases,
  ...layoutCases,
  ...dynamicInteractionCases,
  ...setLossCases,
};
