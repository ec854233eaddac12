/** The table of COCO metrics that evaluations print. */
import { type CocoEvaluation, METRIC_NAMES } from '../core/coco-metrics.ts';
import { formatTable } from './table.ts';

/**
 * COCO metrics in percent. The first row covers all classes; then each class has a row.
 * "-" stands where there is no ground truth.
 */
export function metricsTable({ metrics, byCategory, groundTruths }: CocoEvaluation): string {
  const percent = (value: number) => (value === -1 ? '-' : (100 * value).toFixed(1));
  const metricCells = (values: CocoEvaluation['metrics']) => METRIC_NAMES.map((name) => percent(values[name]));
  const rows = byCategory.map((category) => [category.name, category.groundTruths, ...metricCells(category)]);
  return formatTable(['class', 'objects', ...METRIC_NAMES], [['all', groundTruths, ...metricCells(metrics)], ...rows]);
}
