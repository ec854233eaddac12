/** The learning rate that belongs to a batch: between the linear and the square-root rule, from that of the preset. */
import { isPresetName, presetConfig, type RunConfig } from './recipe.ts';

/** A learning rate further away from both rules than this factor gets a warning. */
const TOLERANCE = 2;

const imagesPerStep = ({ training: { batchSize, accumulation } }: RunConfig): number => batchSize * accumulation;

/**
 * The learning rate by the square-root rule, which suits AdamW (Malladi et al., arXiv 2205.10287).
 * @param factor images per step relative to those of `learningRate`
 */
export const scaledLearningRate = (learningRate: number, factor: number): number =>
  Number((learningRate * Math.sqrt(factor)).toPrecision(3));

/**
 * A warning if the learning rate is far from what the preset's rate becomes at this batch by the linear rule (Goyal et
 * al., arXiv 1706.02677) and by the square-root rule. Null: it is not, or the preset is unknown.
 */
export function learningRateWarning(config: RunConfig): string | null {
  if (!isPresetName(config.preset)) return null;
  const recipe = presetConfig(config.preset);
  if (recipe.training.optimizer !== config.training.optimizer) return null;
  const factor = imagesPerStep(config) / imagesPerStep(recipe);
  const rates = [factor, Math.sqrt(factor)].map((rule) => recipe.training.learningRate * rule);
  const { learningRate } = config.training;
  if (learningRate >= Math.min(...rates) / TOLERANCE && learningRate <= Math.max(...rates) * TOLERANCE) return null;
  const [low, high] = [Math.min(...rates), Math.max(...rates)].map((rate) => rate.toExponential(1));
  return (
    `learning rate ${learningRate} is far from ${low === high ? low : `${low} .. ${high}`}, which the recipe's rules ` +
    `give for ${imagesPerStep(config)} images per step; change with --set learningRate=...`
  );
}
