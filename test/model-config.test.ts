/** The model's configuration: every field is checked, other fields are refused, and matchers come from their table. */
import { describe, expect, test } from 'vitest';
import { selectDetections } from '../model/boxes.ts';
import { ConfigError, MATCHER_NAMES, MATCHERS, PAPER_R50, validateModelConfig } from '../model/index.ts';

/** The message for a configuration with these fields changed; 'accepted' without an error. */
function refusal(change: Readonly<Record<string, unknown>>): string {
  try {
    validateModelConfig({ ...PAPER_R50, ...change }, 'file.json');
    return 'accepted';
  } catch (error) {
    return error instanceof ConfigError ? error.message : String(error);
  }
}

describe('a model configuration', () => {
  test.each([
    ['numClasses', 0, 'an integer in 1 .. 100000, got 0'],
    ['numClasses', 1.5, 'an integer in 1 .. 100000, got 1.5'],
    ['numClasses', undefined, 'an integer in 1 .. 100000, got nothing'],
    ['depth', 19, 'one of 18, 34, 50, 101, got 19'],
    ['norm', 'bn', 'one of frozen_bn, gn, got "bn"'],
    ['matcher', 'greedy', `one of ${MATCHER_NAMES.join(', ')}, got "greedy"`],
    ['matcher', 'toString', `one of ${MATCHER_NAMES.join(', ')}, got "toString"`],
    ['unitIncreasing', 1, 'true or false, got 1'],
    ['otaK', -1, 'a number >= 0, got -1'],
    ['otaK', Number.NaN, 'a number >= 0, got NaN'],
    ['otaK', Number.POSITIVE_INFINITY, 'a number >= 0, got Infinity'],
    ['sinkhornEpsilon', 0, 'a number > 0, got 0'],
    ['priorProbability', 0.51, 'a number > 0 and <= 0.5, got 0.51'],
    ['boxMinLogScale', 0.1, 'a number >= -80 and <= 0, got 0.1'],
    ['boxMaxLogScale', null, 'a number >= 0 and <= 80, got null'],
    ['focalAlpha', 1.1, 'a number >= 0 and <= 1, got 1.1'],
    ['hiddenDim', 30, 'a multiple of 4, got 30'],
    ['hiddenDim', 260, 'a multiple of numAttentionHeads (8), got 260'],
    ['pixelMean', [1, 2], 'three numbers, for red, green and blue, got [1,2]'],
    ['pixelMean', [1, 2, 3, 4], 'three numbers, for red, green and blue, got [1,2,3,4]'],
  ])('with %s %j is refused', (field, value, message) => {
    expect(refusal({ [field]: value })).toBe(`file.json: model.${field}: expected ${message}`);
  });

  test('names the place in a list', () => {
    expect(refusal({ pixelStd: [58, 0, 57] })).toBe('file.json: model.pixelStd[1]: expected a number > 0, got 0');
  });

  test('with an unknown field is refused with the known ones', () => {
    expect(refusal({ depht: 18 })).toMatch(
      /^file\.json: model\.depht: expected one of the keys depth, stemChannels, .*, gradientCheckpointing, got 18$/,
    );
  });

  test('is returned unchanged', () => {
    const config = { ...PAPER_R50 };
    expect(validateModelConfig(config, 'file.json')).toBe(config);
  });
});

describe('every matcher', () => {
  test.each(MATCHER_NAMES)('%s is accepted, and NMS runs unless it is one-to-one', (matcher) => {
    expect(refusal({ matcher })).toBe('accepted');
    // Two proposals with the same box and class.
    const config = { numProposals: 2, numClasses: 1, matcher, nmsThreshold: 0.5 };
    const { scores } = selectDetections([2, 1], [0, 0, 10, 10, 0, 0, 10, 10], [20, 20], config);
    expect(scores.length).toBe(MATCHERS[matcher].oneToOne ? 2 : 1);
  });
});
