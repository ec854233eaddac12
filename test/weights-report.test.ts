/** The report that `npm run train` prints when it starts from a weights file. */
import { describe, expect, test } from 'vitest';
import type { PretrainedReport } from '../training/checkpoints/load-weights.ts';
import { describeReport } from '../training/output/weights-report.ts';

describe('the report of weights that a training starts from', () => {
  const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `head.w${i}`);
  const report: PretrainedReport = {
    file: 'a.pth',
    format: 'torch-zip',
    source: 'detectron2',
    scope: 'model',
    loaded: names(300).map((name) => ({ name, from: name })),
    missing: names(20),
    unexpected: ['x'],
    reshaped: [{ name: 'y', expected: [2], got: [3] }],
    notes: ['said'],
    skipped: [{ name: 'optimizer', reason: 'a dict of 2' }],
  };

  test('has counts first, then names; long lists are shortened and name the file with all names', () => {
    expect(describeReport(report, 'runs/a/weights.json').join('\n')).toBe(
      `
weights   a.pth: torch-zip, names as of detectron2
  tensors        count  use
  -------------  -----  ----------------------------------------
  loaded           300  of the model's 321
  missing           20  not in the file: initial values are kept
  unexpected         1  not in the model: ignored
  another shape      1  initial values are kept
  not read           1  not tensors of the weights: ignored
  missing in the file:
    head.w0
    head.w1
    head.w2
    head.w3
    head.w4
    head.w5
    ... and 14 more
  unexpected in the file:
    x
  of another shape:
    y is [2], in the file [3]
  not read:
    optimizer: a dict of 2
  all names: runs/a/weights.json
  note: said`.slice(1),
    );
  });

  test('leaves out empty lists, and names no file where nothing is shortened', () => {
    const text = describeReport(
      { ...report, missing: ['a'], unexpected: [], reshaped: [], skipped: [], notes: [] },
      'all.json',
    ).join('\n');
    expect(text).not.toMatch(/unexpected in|another shape:|not read|all names|note/);
  });
});
