/**
 * Looking inside: how the boxes of an image's best detections move from the initial boxes through the stages, and the weights by which
 * the image mixed its experts; as numbers and as one picture.
 *
 * Glossary: N proposals, C classes, E experts, T stages. Boxes are [x1, y1, x2, y2] in pixels of the original image, not clipped to it.
 */
import { createCanvas } from '@napi-rs/canvas';
import type { Trace } from '../../model/index.ts';
import { colorOf, drawBoxes, textColorOn, type Canvas, type DrawnBox, type SKRSContext2D } from './draw.ts';
import { captionFont } from './fonts.ts';
import { decodeImage, type PixelImage } from '../data/images.ts';

type Corners = [x1: number, y1: number, x2: number, y2: number];

/** What one stage made of one proposal. */
export interface StageStep {
  readonly box: Corners;
  /** The proposal's best class at this stage and its score; at the last stage the class detected, which need not be the best: NMS may have dropped that one. */
  readonly name: string;
  readonly label: number;
  readonly score: number;
}

export interface DetectionHistory {
  /** 0 .. N - 1. */
  readonly proposal: number;
  readonly name: string;
  readonly label: number;
  readonly score: number;
  readonly initialBox: Corners;
  /** T steps; the last one's box is the detection's. */
  readonly steps: readonly StageStep[];
}

export interface StageHistory {
  /** Detections of at least the score asked for, best first. */
  readonly detections: readonly DetectionHistory[];
  /** N boxes that the first stage starts from. */
  readonly initialBoxes: readonly Corners[];
  /** E rows of N weights, each column summing to 1; null for a model without dynamic proposal generation. */
  readonly expertWeights: readonly (readonly number[])[] | null;
}

/**
 * The numbers of a trace, in pixels of the original image.
 * @param scale pixels of the image that the model saw for each of the original, [horizontally, vertically]
 */
export function stageHistory(
  trace: Trace,
  scale: readonly [number, number],
  classNames: readonly string[],
  leastScore: number,
): StageHistory {
  const [sx, sy] = scale;
  const cornersOf = (boxes: Float32Array, i: number): Corners => [
    boxes[4 * i] / sx,
    boxes[4 * i + 1] / sy,
    boxes[4 * i + 2] / sx,
    boxes[4 * i + 3] / sy,
  ];
  const classes = classNames.length,
    proposals = trace.initialBoxes.length / 4;
  const { scores, labels, proposals: origins } = trace.detections;
  const detections: DetectionHistory[] = [];
  scores.forEach((score, i) => {
    if (score < leastScore) return;
    const proposal = origins[i];
    const steps = trace.stages.map((stage, t): StageStep => {
      const own = stage.scores.subarray(proposal * classes, (proposal + 1) * classes);
      const label =
        t + 1 === trace.stages.length ? labels[i] : own.reduce((best, value, c) => (value > own[best] ? c : best), 0);
      return { box: cornersOf(stage.boxes, proposal), name: classNames[label], label, score: own[label] };
    });
    detections.push({
      proposal,
      name: classNames[labels[i]],
      label: labels[i],
      score,
      initialBox: cornersOf(trace.initialBoxes, proposal),
      steps,
    });
  });
  const weights = trace.expertWeights;
  return {
    detections,
    initialBoxes: Array.from({ length: proposals }, (_, i) => cornersOf(trace.initialBoxes, i)),
    expertWeights:
      weights &&
      Array.from({ length: weights.length / proposals }, (_, e) =>
        Array.from(weights.subarray(e * proposals, (e + 1) * proposals)),
      ),
  };
}

/** More boxes at once cannot be followed by eye. */
const MAX_SHOWN = 8;
/** The longer side of a panel's image, pixels. */
const PANEL_SIDE = 480;
/** Up to here the panels stand in one row, else in two. */
const MAX_COLUMNS = 4;
const MARGIN = 28;
const GAP = 20;
const INK = '#1b1f24';
const PALE_INK = '#59636e';

/** A drawn part of the page and its place in it: known before the page's height is. */
interface Block {
  readonly height: number;
  draw(context: SKRSContext2D, top: number): void;
}

/**
 * Draws a history: a row of panels (the initial boxes, then each stage), below it the expert weights as a heat map, and a caption.
 * At most the best 8 proposals are followed. Panels are 480 pixels long at their longer side; from five on they stand in two rows.
 *
 * @param image a file, decoded as for prediction, or its pixels
 * @param title stands above the panels
 */
export async function drawStages(image: string | PixelImage, history: StageHistory, title: string): Promise<Canvas> {
  const raw = typeof image === 'string' ? await decodeImage(image) : image;
  const scale = PANEL_SIDE / Math.max(raw.width, raw.height);
  const shown = followed(history);
  const stages = history.detections[0]?.steps.length ?? 0;
  const panels = [
    {
      title: `Initial boxes (${history.initialBoxes.length} proposals)`,
      picture: await initialPanel(raw, scale, history, shown),
    },
  ];
  for (let stage = 0; stage < stages; stage++)
    panels.push({ title: `Stage ${stage + 1}`, picture: await stagePanel(raw, scale, shown, stage) });

  const columns = panels.length <= MAX_COLUMNS ? panels.length : Math.ceil(panels.length / 2);
  const { width: panelWidth, height: panelHeight } = panels[0].picture;
  // A caption narrower than this would be a column of single words.
  const width = Math.max(2 * MARGIN + columns * panelWidth + (columns - 1) * GAP, 2 * MARGIN + PANEL_SIDE);
  const inner = width - 2 * MARGIN;
  const measure = createCanvas(1, 1).getContext('2d');
  const rowHeight = panelHeight + 30;
  const grid: Block = {
    height: Math.ceil(panels.length / columns) * (rowHeight + GAP) - GAP,
    draw: (context, top) =>
      panels.forEach(({ title: name, picture }, i) => {
        const x = MARGIN + (i % columns) * (panelWidth + GAP),
          y = top + Math.floor(i / columns) * (rowHeight + GAP);
        write(context, name, x, y + 18, { size: 17, bold: true });
        context.drawImage(picture, x, y + 30);
      }),
  };
  const blocks = [
    paragraph(measure, title, inner, { size: 22, bold: true }),
    paragraph(measure, summary(history, shown), inner, { size: 16, color: PALE_INK }),
    grid,
    ...weightBlocks(measure, history.expertWeights, shown, inner),
  ];
  const gaps = blocks.map((_, i) => (i === 0 ? MARGIN : i === 1 ? 8 : GAP));
  const height = blocks.reduce((sum, block, i) => sum + gaps[i] + block.height, MARGIN);
  const page = createCanvas(width, Math.ceil(height));
  const context = page.getContext('2d');
  context.fillStyle = '#ffffff';
  context.fillRect(0, 0, page.width, page.height);
  blocks.reduce((top, block, i) => {
    block.draw(context, top + gaps[i]);
    return top + gaps[i] + block.height;
  }, 0);
  return page;
}

/** The lower part of the page. */
function weightBlocks(
  measure: SKRSContext2D,
  weights: StageHistory['expertWeights'],
  shown: readonly DetectionHistory[],
  inner: number,
): Block[] {
  if (weights === null) {
    const reason =
      'No expert weights: this model has no dynamic proposal generation; every image starts from the same learned boxes and features.';
    return [paragraph(measure, reason, inner, { size: 16 })];
  }
  const heading = { size: 17, bold: true };
  const blocks = [paragraph(measure, 'Expert weights of this image', inner, heading), heatMap(weights, shown, inner)];
  if (shown.length > 0 && cellWidth(weights, inner) < LEGIBLE_CELL) {
    blocks.push(paragraph(measure, 'Expert weights of the numbered boxes', inner, heading), closeUp(weights, shown));
  }
  const caption =
    "Each initial box is the sum of its experts' boxes by the weights of its column, which add up to 1; so is each initial feature. " +
    `${shown.length === 0 ? 'Right' : 'Numbered columns belong to the numbered boxes; right'}: each expert's mean. ` +
    `Equal shares (▼) would be ${(1 / weights.length).toFixed(2)}.`;
  return [...blocks, paragraph(measure, caption, inner, { size: 15, color: PALE_INK })];
}

/** The best detections, one a proposal: a box detected as two classes is followed once. */
function followed({ detections }: StageHistory): DetectionHistory[] {
  const seen = new Set<number>();
  return detections.filter(({ proposal }) => !seen.has(proposal) && seen.add(proposal)).slice(0, MAX_SHOWN);
}

function summary({ detections }: StageHistory, shown: readonly DetectionHistory[]): string {
  if (detections.length === 0) return 'No detection reaches the score asked for, so there is no box to follow.';
  const all = shown.length === 1 ? 'The one detection' : `The ${shown.length} detections`;
  const which = shown.length < detections.length ? `The best ${shown.length} of ${detections.length} detections` : all;
  return (
    `${which}, numbered by final score. Each stage's box stands before the pale, dashed one that it was given; a line leads from centre to centre. ` +
    "Names and scores: the proposal's best class at that stage; at the last stage, the class detected."
  );
}

/** All initial boxes thin, those of the detections thick; boxes that coincide (at first all are the whole image in [SR]) share a tag. */
function initialPanel(
  image: PixelImage,
  scale: number,
  { initialBoxes }: StageHistory,
  shown: readonly DetectionHistory[],
): Promise<Canvas> {
  const place = ({ initialBox }: DetectionHistory): string =>
    initialBox.map((value) => Math.round((value * scale) / 4)).join();
  const boxes = shown.map((one, i): DrawnBox => {
    const together = shown.flatMap((other, j) => (place(other) === place(one) ? [j + 1] : []));
    return { box: upright(one.initialBox), label: one.label, name: together[0] === i + 1 ? together.join(' ') : '' };
  });
  // Hundreds of boxes are a texture in which the thick ones must still be found.
  const opacity = Math.min(1, 6 / Math.sqrt(initialBoxes.length));
  // Of equal scores the last is on top: the best.
  return drawBoxes(image, boxes.toReversed(), {
    scale,
    underlay: (context) => {
      dim(context);
      for (const box of initialBoxes) {
        outline(context, box, scale, { color: `rgba(10, 12, 16, ${0.6 * opacity ** 2})`, width: 3 });
        outline(context, box, scale, { color: `rgba(255, 255, 255, ${0.85 * opacity})`, width: 1.25 });
      }
    },
  });
}

async function stagePanel(
  image: PixelImage,
  scale: number,
  shown: readonly DetectionHistory[],
  stage: number,
): Promise<Canvas> {
  const boxes = shown.map(({ steps }, i): DrawnBox => {
    const { box, label, name, score } = steps[stage];
    return { box: upright(box), label, name: `${i + 1} ${name}`, score };
  });
  return drawBoxes(image, boxes, {
    scale,
    underlay: (context) => {
      dim(context);
      for (const { initialBox, steps } of shown) {
        const before = stage === 0 ? initialBox : steps[stage - 1].box;
        const color = colorOf(steps[stage].label);
        outline(context, before, scale, { color: 'rgba(10, 12, 16, 0.35)', width: 3.5 });
        outline(context, before, scale, { color: `${color}b8`, width: 2, dash: [7, 5] });
        arrow(context, centre(before, scale), centre(steps[stage].box, scale), color);
      }
    },
  });
}

/** Learned boxes may have a negative width or height early in training. */
function upright([x1, y1, x2, y2]: Corners): Corners {
  return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
}

function centre([x1, y1, x2, y2]: Corners, scale: number): [number, number] {
  return [(scale * (x1 + x2)) / 2, (scale * (y1 + y2)) / 2];
}

/** Lets lines stand out from the image. */
function dim(context: SKRSContext2D): void {
  context.fillStyle = 'rgba(24, 28, 34, 0.35)';
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

/** A rectangle, pulled inside the picture where it leaves it. */
function outline(
  context: SKRSContext2D,
  box: Corners,
  scale: number,
  { color, width, dash = [] }: { color: string; width: number; dash?: number[] },
): void {
  const { width: right, height: bottom } = context.canvas;
  const [x1, y1, x2, y2] = upright(box).map((value, i) =>
    Math.min(Math.max(value * scale, 2), (i % 2 === 0 ? right : bottom) - 2),
  );
  context.strokeStyle = color;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  context.setLineDash([]);
}

/** From a dot to an arrow head; where the way is short the dot alone. */
function arrow(
  context: SKRSContext2D,
  [x1, y1]: readonly [number, number],
  [x2, y2]: readonly [number, number],
  color: string,
): void {
  const length = Math.hypot(x2 - x1, y2 - y1),
    head = Math.min(10, length * 0.6);
  const [ux, uy] = length > 0 ? [(x2 - x1) / length, (y2 - y1) / length] : [0, 0];
  for (const [stroke, extra] of [
    ['rgba(10, 12, 16, 0.7)', 2],
    [color, 0],
  ] as const) {
    context.strokeStyle = stroke;
    context.fillStyle = stroke;
    context.lineWidth = 2 + extra;
    context.beginPath();
    context.arc(x1, y1, 2.5 + extra / 2, 0, 2 * Math.PI);
    context.fill();
    if (length < 4) continue;
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2 - ux * head * 0.7, y2 - uy * head * 0.7);
    context.stroke();
    context.beginPath();
    context.moveTo(x2 + (ux * extra) / 2, y2 + (uy * extra) / 2);
    for (const side of [-1, 1])
      context.lineTo(
        x2 - ux * head - side * uy * (head / 2 + extra / 2),
        y2 - uy * head + side * ux * (head / 2 + extra / 2),
      );
    context.closePath();
    context.fill();
  }
}

interface TextStyle {
  readonly size: number;
  readonly bold?: boolean;
  readonly color?: string;
  readonly align?: 'left' | 'center' | 'right';
}

function write(
  context: SKRSContext2D,
  text: string,
  x: number,
  baseline: number,
  { size, bold = false, color = INK, align = 'left' }: TextStyle,
): void {
  context.font = captionFont(size, bold);
  context.fillStyle = color;
  context.textAlign = align;
  context.textBaseline = 'alphabetic';
  context.fillText(text, x, baseline);
}

/** Text broken into lines of at most `width` pixels; a word wider than that (a long file name) stands on a line of its own, narrowed to fit. */
function paragraph(measure: SKRSContext2D, text: string, width: number, style: TextStyle): Block {
  measure.font = captionFont(style.size, style.bold);
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const longer = lines.length === 0 ? word : `${lines[lines.length - 1]} ${word}`;
    if (lines.length > 0 && measure.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const lineHeight = Math.round(style.size * 1.4);
  return {
    height: lines.length * lineHeight,
    draw: (context, top) =>
      lines.forEach((line, i) => {
        context.font = captionFont(style.size, style.bold);
        const fitted = Math.min(1, width / context.measureText(line).width);
        write(context, line, MARGIN, top + i * lineHeight + style.size, { ...style, size: style.size * fitted });
      }),
  };
}

// Heat map

/** From pale to dark by even steps of lightness (a reading of ColorBrewer's YlGnBu), so that it also reads in grey. */
const SHADES = [
  [255, 255, 229],
  [199, 233, 180],
  [127, 205, 187],
  [65, 182, 196],
  [29, 145, 192],
  [34, 94, 168],
  [12, 44, 132],
] as const;

/** The colour of a share 0 .. 1 of the scale, as #rrggbb. */
function shade(share: number): string {
  const at = Math.min(Math.max(share, 0), 1) * (SHADES.length - 1),
    low = Math.min(Math.floor(at), SHADES.length - 2);
  return `#${SHADES[low]
    .map((value, c) =>
      Math.round(value + (at - low) * (SHADES[low + 1][c] - value))
        .toString(16)
        .padStart(2, '0'),
    )
    .join('')}`;
}

/** Left of the rows and right of them, and a row's height; pixels. */
const LABELS = 86;
const MEANS = 58;
const ROW = 34;
/** Above the rows: where flags stand. */
const FLAGS = 34;
/** A cell at least this wide holds its number. */
const LEGIBLE_CELL = 30;

interface Grid {
  readonly left: number;
  /** Where the rows begin. */
  readonly first: number;
  /** Width of a column. */
  readonly cell: number;
  /** The weight that the last shade stands for. */
  readonly top: number;
}

function cellWidth(weights: readonly (readonly number[])[], inner: number): number {
  return (inner - LABELS - MEANS) / weights[0].length;
}

/** E rows of N cells, the columns of the proposals that are followed marked, a scale below. */
function heatMap(weights: readonly (readonly number[])[], shown: readonly DetectionHistory[], inner: number): Block {
  const proposals = weights[0].length,
    left = MARGIN + LABELS,
    cell = cellWidth(weights, inner),
    right = left + proposals * cell;
  const rows = weights.length * ROW,
    axis = 42,
    top = scaleLimit(weights);
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
      markColumns(context, shown, proposals, rows, { left, first, cell, top });
      const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => step * cell >= LEGIBLE_CELL) ?? 1000;
      for (let n = 0; n < proposals; n += every)
        write(context, String(n), left + (n + 0.5) * cell, first + rows + 18, {
          size: 12.5,
          color: PALE_INK,
          align: 'center',
        });
      write(context, 'proposal', left - 10, first + rows + 18, { size: 13, color: PALE_INK, align: 'right' });
      drawScale(context, left, first + rows + axis, Math.min(420, proposals * cell), top, 1 / weights.length);
    },
  };
}

/** The columns of the proposals that are followed alone, wide enough for their numbers. */
function closeUp(weights: readonly (readonly number[])[], shown: readonly DetectionHistory[]): Block {
  const left = MARGIN + LABELS,
    cell = 44,
    rows = weights.length * ROW,
    top = scaleLimit(weights);
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
        drawFlag(context, String(i + 1), colorOf(label), left + (i + 0.5) * cell, first - FLAG_SIDE - 6);
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

/** Rows of shaded cells with their experts' names, and numbers where there is room. */
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
      // Whole pixels: neighbouring cells meet without seams.
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

/** Ends of the scale and the number of round steps to each. */
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

/** The least end of the scale that is not below the largest weight. */
function scaleLimit(weights: readonly (readonly number[])[]): number {
  const largest = Math.max(...weights.map((line) => Math.max(...line)));
  return [...SCALE_STEPS.keys()].find((limit) => limit >= largest) ?? 1;
}

const FLAG_SIDE = 20;

/**
 * A numbered flag above each column, flags of neighbours making room for each other, and a frame around the column; where that would hide
 * a narrow column, a mark at both its ends.
 */
function markColumns(
  context: SKRSContext2D,
  shown: readonly DetectionHistory[],
  proposals: number,
  rows: number,
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
  const last = left + proposals * cell - FLAG_SIDE / 2;
  flags.forEach((one, i) => {
    one.x = Math.max(one.x, i > 0 ? flags[i - 1].x + FLAG_SIDE + 2 : left + FLAG_SIDE / 2);
  });
  for (let i = flags.length - 1; i >= 0; i--)
    flags[i].x = Math.min(flags[i].x, i + 1 < flags.length ? flags[i + 1].x - FLAG_SIDE - 2 : last);
  for (const { proposal, color, text, x } of flags) {
    const x1 = Math.round(left + proposal * cell),
      x2 = Math.round(left + (proposal + 1) * cell),
      y = first - 30;
    if (cell >= 12) {
      for (const [stroke, width] of [
        [INK, 5],
        [color, 3],
      ] as const) {
        context.strokeStyle = stroke;
        context.lineWidth = width;
        context.strokeRect(x1, first, x2 - x1, rows);
      }
    } else {
      context.fillStyle = color;
      for (const end of [first - 5, first + rows]) context.fillRect(x1 - 1, end, x2 - x1 + 2, 5);
    }
    context.strokeStyle = color;
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x, y + FLAG_SIDE);
    context.lineTo((x1 + x2) / 2, first - 3);
    context.stroke();
    drawFlag(context, text, color, x, y);
  }
}

function drawFlag(context: SKRSContext2D, text: string, color: string, x: number, y: number): void {
  context.fillStyle = color;
  context.beginPath();
  context.roundRect(x - FLAG_SIDE / 2, y, FLAG_SIDE, FLAG_SIDE, 4);
  context.fill();
  write(context, text, x, y + 15, { size: 14, bold: true, color: textColorOn(color), align: 'center' });
}

/** The colours from 0 to `top` with numbers, and a tick at an equal share. */
function drawScale(context: SKRSContext2D, left: number, y: number, width: number, top: number, equal: number): void {
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
