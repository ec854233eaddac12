/** The heat map of an image's expert weights: E rows of N cells, one row per expert, one column per proposal. */
import type { SKRSContext2D } from '@napi-rs/canvas';
import { colorOf, textColorOn } from './colors.ts';
import { type Block, INK, MARGIN, PALE_INK, paragraph, write } from './page.ts';
import type { DetectionHistory, StageHistory } from './stage-history.ts';

/**
 * The expert weights of an image as blocks of a page: a heat map, a close-up of the columns of the followed proposals
 * if the heat map is too narrow for numbers, and a caption. `inner` is the width between the margins.
 */
export function expertWeightBlocks(
  measure: SKRSContext2D,
  weights: StageHistory['expertWeights'],
  shown: readonly DetectionHistory[],
  inner: number,
): Block[] {
  if (weights === null) {
    const reason =
      'No expert weights: this model has no dynamic proposal generation. Every image starts from the same learned ' +
      'boxes and features.';
    return [paragraph(measure, reason, inner, { size: 16 })];
  }
  const heading = { size: 17, bold: true };
  const blocks = [paragraph(measure, 'Expert weights of this image', inner, heading), heatMap(weights, shown, inner)];
  if (shown.length > 0 && cellWidth(weights, inner) < LEGIBLE_CELL) {
    blocks.push(paragraph(measure, 'Expert weights of the numbered boxes', inner, heading), closeUp(weights, shown));
  }
  const caption =
    "Each initial box is the weighted sum of the experts' boxes, with the weights of its column, which add up to 1. " +
    'The same holds for each initial feature. ' +
    `${shown.length === 0 ? '' : 'Numbered columns belong to the numbered boxes. '}The last column is each expert's ` +
    `mean. Equal weights (▼) would be ${(1 / weights.length).toFixed(2)}.`;
  return [...blocks, paragraph(measure, caption, inner, { size: 15, color: PALE_INK })];
}

/** Colors from pale to dark by even steps of lightness, also legible in gray (after ColorBrewer's YlGnBu). */
const SHADES = [
  [255, 255, 229],
  [199, 233, 180],
  [127, 205, 187],
  [65, 182, 196],
  [29, 145, 192],
  [34, 94, 168],
  [12, 44, 132],
] as const;

/** The color at a share 0 .. 1 of the scale, as #rrggbb. */
function shade(share: number): string {
  const at = Math.min(Math.max(share, 0), 1) * (SHADES.length - 1);
  const low = Math.min(Math.floor(at), SHADES.length - 2);
  return `#${SHADES[low]
    .map((value, c) =>
      Math.round(value + (at - low) * (SHADES[low + 1][c] - value))
        .toString(16)
        .padStart(2, '0'),
    )
    .join('')}`;
}

/** Space left of the rows, space right of them, and the height of a row; pixels. */
const LABELS = 86;
const MEANS = 58;
const ROW = 34;
/** Space above the rows for flags, pixels. */
const FLAGS = 34;
/** A cell at least this wide shows its number, pixels. */
const LEGIBLE_CELL = 30;

interface Grid {
  readonly left: number;
  /** Top of the first row. */
  readonly first: number;
  /** Width of a column. */
  readonly cell: number;
  /** The weight of the darkest shade. */
  readonly top: number;
}

function cellWidth(weights: readonly (readonly number[])[], inner: number): number {
  return (inner - LABELS - MEANS) / weights[0].length;
}

/** E rows of N cells with marks at the columns of the followed proposals, and a scale below. */
function heatMap(weights: readonly (readonly number[])[], shown: readonly DetectionHistory[], inner: number): Block {
  const proposals = weights[0].length;
  const left = MARGIN + LABELS;
  const cell = cellWidth(weights, inner);
  const right = left + proposals * cell;
  const rows = weights.length * ROW;
  const axis = 42;
  const top = scaleLimit(weights);
  return {
    height: FLAGS + rows + axis + 32,
    draw(context, y) {
      const first = y + FLAGS;
      drawCells(context, weights, { left, first, cell, top });
      write(context, 'mean', right + MEANS - 4, first - 9, { size: 13, color: PALE_INK, align: 'right' });
      weights.forEach((line, e) => {
        const mean = line.reduce((a, b) => a + b, 0) / proposals;
        write(context, mean.toFixed(2), right + MEANS - 4, first + e * ROW + ROW / 2 + 5, {
          size: 14,
          bold: true,
          align: 'right',
        });
      });
      markColumns(context, shown, { columns: proposals, height: rows }, { left, first, cell, top });
      const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => step * cell >= LEGIBLE_CELL) ?? 1000;
      for (let n = 0; n < proposals; n += every)
        write(context, String(n), left + (n + 0.5) * cell, first + rows + 18, {
          size: 12.5,
          color: PALE_INK,
          align: 'center',
        });
      write(context, 'proposal', left - 10, first + rows + 18, { size: 13, color: PALE_INK, align: 'right' });
      const scale = { left, y: first + rows + axis, width: Math.min(420, proposals * cell), top };
      drawScale(context, scale, 1 / weights.length);
    },
  };
}

/** Only the columns of the followed proposals, wide enough for their numbers. */
function closeUp(weights: readonly (readonly number[])[], shown: readonly DetectionHistory[]): Block {
  const left = MARGIN + LABELS;
  const cell = 44;
  const rows = weights.length * ROW;
  const top = scaleLimit(weights);
  return {
    height: FLAGS + rows + 22,
    draw(context, y) {
      const first = y + FLAGS - 6;
      drawCells(
        context,
        weights.map((line) => shown.map(({ proposal }) => line[proposal])),
        { left, first, cell, top },
      );
      shown.forEach(({ proposal, label }, i) => {
        drawFlag(
          context,
          { text: String(i + 1), color: colorOf(label) },
          left + (i + 0.5) * cell,
          first - FLAG_SIDE - 6,
        );
        write(context, String(proposal), left + (i + 0.5) * cell, first + rows + 18, {
          size: 12.5,
          color: PALE_INK,
          align: 'center',
        });
      });
      write(context, 'proposal', left - 10, first + rows + 18, { size: 13, color: PALE_INK, align: 'right' });
    },
  };
}

/** Rows of shaded cells with the names of the experts, and numbers if the cells are wide enough. */
function drawCells(
  context: SKRSContext2D,
  weights: readonly (readonly number[])[],
  { left, first, cell, top }: Grid,
): void {
  weights.forEach((line, e) => {
    const baseline = first + e * ROW + ROW / 2 + 5;
    write(context, `expert ${e + 1}`, left - 10, baseline, { size: 14, align: 'right' });
    line.forEach((weight, n) => {
      const color = shade(weight / top);
      context.fillStyle = color;
      // Whole pixels, so that neighboring cells have no seams.
      const [x1, x2] = [Math.round(left + n * cell), Math.round(left + (n + 1) * cell)];
      context.fillRect(x1, first + e * ROW, x2 - x1, ROW);
      if (cell >= LEGIBLE_CELL)
        write(context, weight.toFixed(2).replace(/^0/, ''), (x1 + x2) / 2, baseline, {
          size: 12.5,
          color: textColorOn(color),
          align: 'center',
        });
    });
  });
  context.strokeStyle = '#9aa4af';
  context.lineWidth = 1;
  context.strokeRect(left - 0.5, first - 0.5, weights[0].length * cell + 1, weights.length * ROW + 1);
}

/** Possible ends of the scale, and the number of round steps from 0 to each end. */
const SCALE_STEPS = new Map([
  [0.1, 5],
  [0.2, 4],
  [0.3, 3],
  [0.4, 4],
  [0.5, 5],
  [0.6, 3],
  [0.8, 4],
  [1, 5],
]);

/** The smallest end of the scale that covers the largest weight. */
function scaleLimit(weights: readonly (readonly number[])[]): number {
  const largest = Math.max(...weights.map((line) => Math.max(...line)));
  return [...SCALE_STEPS.keys()].find((limit) => limit >= largest) ?? 1;
}

const FLAG_SIDE = 20;

/**
 * Draws a numbered flag above the column of each followed proposal, and a frame around the column. Neighboring flags
 * move apart. A frame would hide a narrow column, so a narrow column has a mark at both ends.
 */
function markColumns(
  context: SKRSContext2D,
  shown: readonly DetectionHistory[],
  { columns, height }: { readonly columns: number; readonly height: number },
  { left, first, cell }: Grid,
): void {
  const flags = shown
    .map(({ proposal, label }, i) => ({
      proposal,
      color: colorOf(label),
      text: String(i + 1),
      x: left + (proposal + 0.5) * cell,
    }))
    .sort((a, b) => a.proposal - b.proposal);
  const last = left + columns * cell - FLAG_SIDE / 2;
  flags.forEach((flag, i) => {
    flag.x = Math.max(flag.x, i > 0 ? flags[i - 1].x + FLAG_SIDE + 2 : left + FLAG_SIDE / 2);
  });
  for (let i = flags.length - 1; i >= 0; i--)
    flags[i].x = Math.min(flags[i].x, i + 1 < flags.length ? flags[i + 1].x - FLAG_SIDE - 2 : last);
  for (const { proposal, color, text, x } of flags) {
    const x1 = Math.round(left + proposal * cell);
    const x2 = Math.round(left + (proposal + 1) * cell);
    const y = first - 30;
    if (cell >= 12) {
      for (const [stroke, width] of [
        [INK, 5],
        [color, 3],
      ] as const) {
        context.strokeStyle = stroke;
        context.lineWidth = width;
        context.strokeRect(x1, first, x2 - x1, height);
      }
    } else {
      context.fillStyle = color;
      for (const end of [first - 5, first + height]) context.fillRect(x1 - 1, end, x2 - x1 + 2, 5);
    }
    context.strokeStyle = color;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, y + FLAG_SIDE);
    context.lineTo((x1 + x2) / 2, first - 3);
    context.stroke();
    drawFlag(context, { text, color }, x, y);
  }
}

interface Flag {
  readonly text: string;
  readonly color: string;
}

/** Draws a flag. `x`: its center; `y`: its top. */
function drawFlag(context: SKRSContext2D, { text, color }: Flag, x: number, y: number): void {
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x - FLAG_SIDE / 2, y, FLAG_SIDE, FLAG_SIDE, 4);
  context.fill();
  write(context, text, x, y + 15, { size: 14, bold: true, color: textColorOn(color), align: 'center' });
}

interface Scale {
  readonly left: number;
  readonly y: number;
  readonly width: number;
  /** The weight at the right end. */
  readonly top: number;
}

/** Draws the colors from 0 to `top` with numbers, and a mark at the weight `equal`. */
function drawScale(context: SKRSContext2D, { left, y, width, top }: Scale, equal: number): void {
  const height = 14;
  for (let x = 0; x < width; x++) {
    context.fillStyle = shade(x / (width - 1));
    context.fillRect(left + x, y, 1, height);
  }
  context.strokeStyle = '#9aa4af';
  context.lineWidth = 1;
  context.strokeRect(left - 0.5, y - 0.5, width + 1, height + 1);
  const steps = SCALE_STEPS.get(top) ?? 5;
  for (let i = 0; i <= steps; i++) {
    write(context, String(Number(((top * i) / steps).toFixed(3))), left + (width * i) / steps, y + height + 16, {
      size: 12.5,
      color: PALE_INK,
      align: 'center',
    });
  }
  write(context, 'weight', left - 10, y + 12, { size: 13, color: PALE_INK, align: 'right' });
  if (equal > top) return;
  const x = left + (width * equal) / top;
  context.fillStyle = INK;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x - 5, y - 8);
  context.lineTo(x + 5, y - 8);
  context.closePath();
  context.fill();
}
