/**
 * Draws a stage history as one picture: panels for the initial boxes and for each stage, and the expert weights.
 * Boxes are [x1, y1, x2, y2] in pixels of the original image and may exceed the image.
 */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import { decodeImage, type PixelImage } from '../data/images.ts';
import { colorOf } from './colors.ts';
import { drawBoxes, type DrawnBox } from './draw-boxes.ts';
import { expertWeightBlocks } from './expert-weights.ts';
import { type Block, drawPage, GAP, MARGIN, PALE_INK, paragraph, write } from './page.ts';
import type { Corners, DetectionHistory, StageHistory } from './stage-history.ts';

/** Maximum number of boxes in a picture. The eye cannot follow more boxes at once. */
const MAX_SHOWN = 8;
/** The longer side of a panel's image, pixels. */
const PANEL_SIDE = 480;
/** Height of a panel's title, pixels. */
const PANEL_TITLE = 30;
/** Maximum number of panels in one row. More panels are drawn in two rows. */
const MAX_COLUMNS = 4;

/**
 * Draws a history: panels with the initial boxes and each stage, the expert weights as a heat map, and a caption.
 * The picture shows at most the best 8 proposals. Panels are 480 pixels long at their longer side. Five panels or
 * more are drawn in two rows.
 * @param image a file, decoded as for prediction, or its pixels
 * @param title is drawn above the panels
 */
export async function drawStages(image: string | PixelImage, history: StageHistory, title: string): Promise<Canvas> {
  const raw = typeof image === 'string' ? await decodeImage(image) : image;
  const shown = followed(history);
  const panels = await drawPanels(raw, history, shown);
  const columns = panels.length <= MAX_COLUMNS ? panels.length : Math.ceil(panels.length / 2);
  const panelWidth = panels[0].picture.width;
  // In a narrower caption, most lines would be single words.
  const width = Math.max(2 * MARGIN + columns * panelWidth + (columns - 1) * GAP, 2 * MARGIN + PANEL_SIDE);
  const inner = width - 2 * MARGIN;
  const measure = createCanvas(1, 1).getContext('2d');
  const blocks = [
    paragraph(measure, title, inner, { size: 22, bold: true }),
    paragraph(measure, summary(history, shown), inner, { size: 16, color: PALE_INK }),
    panelGrid(panels, columns),
    ...expertWeightBlocks(measure, history.expertWeights, shown, inner),
  ];
  const gaps = blocks.map((_, i) => (i === 0 ? MARGIN : i === 1 ? 8 : GAP));
  return drawPage(width, blocks, gaps);
}

interface Panel {
  readonly title: string;
  readonly picture: Canvas;
}

async function drawPanels(
  image: PixelImage,
  history: StageHistory,
  shown: readonly DetectionHistory[],
): Promise<Panel[]> {
  const scale = PANEL_SIDE / Math.max(image.width, image.height);
  const panels = [
    {
      title: `Initial boxes (${history.initialBoxes.length} proposals)`,
      picture: await initialPanel(image, scale, history, shown),
    },
  ];
  const stages = history.detections[0]?.steps.length ?? 0;
  for (let stage = 0; stage < stages; stage++)
    panels.push({ title: `Stage ${stage + 1}`, picture: await stagePanel(image, scale, shown, stage) });
  return panels;
}

/** Panels of one size with their titles, row by row. */
function panelGrid(panels: readonly Panel[], columns: number): Block {
  const { width: panelWidth, height: panelHeight } = panels[0].picture;
  const rowHeight = panelHeight + PANEL_TITLE;
  return {
    height: Math.ceil(panels.length / columns) * (rowHeight + GAP) - GAP,
    draw: (context, top) =>
      panels.forEach(({ title, picture }, i) => {
        const x = MARGIN + (i % columns) * (panelWidth + GAP);
        const y = top + Math.floor(i / columns) * (rowHeight + GAP);
        write(context, title, x, y + 18, { size: 17, bold: true });
        context.drawImage(picture, x, y + PANEL_TITLE);
      }),
  };
}

/** The best detections, one per proposal: a proposal may be detected as two classes, but the picture shows it once. */
function followed({ detections }: StageHistory): DetectionHistory[] {
  const seen = new Set<number>();
  return detections.filter(({ proposal }) => !seen.has(proposal) && seen.add(proposal)).slice(0, MAX_SHOWN);
}

function summary({ detections }: StageHistory, shown: readonly DetectionHistory[]): string {
  if (detections.length === 0) return 'No detection reaches the requested score, so there is no box to follow.';
  const all = shown.length === 1 ? 'The one detection' : `The ${shown.length} detections`;
  const which = shown.length < detections.length ? `The best ${shown.length} of ${detections.length} detections` : all;
  return (
    `${which}, numbered by final score. Each stage shows its boxes, and pale and dashed the boxes that it started ` +
    'from; a line connects their centers. Names and scores are those of the best class at that stage; at the last ' +
    'stage, of the detected class.'
  );
}

/**
 * All initial boxes thin, and those of the detections thick. Boxes that coincide share a tag: in Sparse R-CNN all boxes
 * are the whole image at first.
 */
function initialPanel(
  image: PixelImage,
  scale: number,
  { initialBoxes }: StageHistory,
  shown: readonly DetectionHistory[],
): Promise<Canvas> {
  const place = ({ initialBox }: DetectionHistory): string =>
    initialBox.map((value) => Math.round((value * scale) / 4)).join();
  const boxes = shown.map((detection, i): DrawnBox => {
    const { initialBox, label } = detection;
    const numbers = shown.flatMap((other, j) => (place(other) === place(detection) ? [j + 1] : []));
    return { box: upright(initialBox), label, name: numbers[0] === i + 1 ? numbers.join(' ') : '' };
  });
  // Hundreds of thin boxes are paler, so that the thick ones stay visible.
  const opacity = Math.min(1, 6 / Math.sqrt(initialBoxes.length));
  // Among equal scores the last box is on top, so the best one comes last.
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

/** The boxes of a stage, and pale and dashed the boxes that it started from. */
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
        arrow(context, center(before, scale), center(steps[stage].box, scale), color);
      }
    },
  });
}

/** Learned boxes may have a negative width or height early in training. */
function upright([x1, y1, x2, y2]: Corners): Corners {
  return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
}

function center([x1, y1, x2, y2]: Corners, scale: number): [number, number] {
  return [(scale * (x1 + x2)) / 2, (scale * (y1 + y2)) / 2];
}

/** Darkens the image, so that lines stand out. */
function dim(context: SKRSContext2D): void {
  context.fillStyle = 'rgba(24, 28, 34, 0.35)';
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

/** A rectangle. Sides outside the picture are moved to its border. */
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

/** A line from a dot to an arrow head. A short distance shows only the dot. */
function arrow(
  context: SKRSContext2D,
  [x1, y1]: readonly [number, number],
  [x2, y2]: readonly [number, number],
  color: string,
): void {
  const length = Math.hypot(x2 - x1, y2 - y1);
  const head = Math.min(10, length * 0.6);
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
