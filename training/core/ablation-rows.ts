/** The rows of the paper's ablation tables, and the settings in which they differ. */
import type { ModelConfig } from '../../model/index.ts';

/** The keys in which the rows differ. All other keys are the same in all rows. */
export const VARIED_KEYS = [
  'dpg',
  'matcher',
  'otaK',
  'unitIncreasing',
] as const satisfies readonly (keyof ModelConfig)[];

export type VariedSettings = Pick<ModelConfig, (typeof VARIED_KEYS)[number]>;

export interface AblationRow {
  readonly name: string;
  /** The row in the words of the paper's tables. */
  readonly shows: string;
  /** Settings that differ from the whole method. */
  readonly differs: Partial<VariedSettings>;
  /** AP on COCO val2017 with ResNet-50, in percent. */
  readonly paperAP: number;
}

export const WHOLE_METHOD: VariedSettings = { dpg: 'staircase', matcher: 'ota', otaK: 0, unitIncreasing: true };

/** All varied settings of a row. */
export const settingsOf = ({ differs }: AblationRow): VariedSettings => ({ ...WHOLE_METHOD, ...differs });

/**
 * The rows with their numbers in [DSR, arXiv 2205.02101]. The first rows add the parts of the method one by one.
 * The others compare matchers without dynamic proposal generation.
 */
export const ABLATION_ROWS: readonly AblationRow[] = [
  { name: 'sparse-rcnn', shows: 'Sparse R-CNN', differs: { dpg: 'none', matcher: 'hungarian' }, paperAP: 45.0 },
  { name: 'dpg-plain', shows: '+ DPG, plain', differs: { dpg: 'plain', matcher: 'hungarian' }, paperAP: 45.3 },
  { name: 'dpg-staircase', shows: '+ staircase', differs: { matcher: 'hungarian' }, paperAP: 45.7 },
  { name: 'ota', shows: '+ OTA, dynamic k', differs: { unitIncreasing: false }, paperAP: 46.0 },
  { name: 'unit-increasing', shows: '+ unit increasing: the whole method', differs: {}, paperAP: 47.2 },
  { name: 'k2', shows: 'no DPG; OTA, k = 2', differs: { dpg: 'none', otaK: 2, unitIncreasing: false }, paperAP: 45.9 },
  { name: 'k3', shows: 'no DPG; OTA, k = 3', differs: { dpg: 'none', otaK: 3, unitIncreasing: false }, paperAP: 45.9 },
  {
    name: 'dynamic-k',
    shows: 'no DPG; OTA, dynamic k',
    differs: { dpg: 'none', unitIncreasing: false },
    paperAP: 46.1,
  },
];
