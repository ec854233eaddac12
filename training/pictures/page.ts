/** Layout of a drawn page: blocks below each other, and text in them. */
import { type Canvas, createCanvas, type SKRSContext2D } from '@napi-rs/canvas';
import { captionFont } from './fonts.ts';

/** Sizes on a page are in pixels. */
export const MARGIN = 28;
export const GAP = 20;
export const INK = '#1b1f24';
export const PALE_INK = '#59636e';

/** A part of a page. Its height is known before it is drawn. */
export interface Block {
  readonly height: number;
  draw(context: SKRSContext2D, top: number): void;
}

/**
 * Draws blocks below each other on a white page.
 * @param gaps space above each block; a margin follows the last block
 */
export function drawPage(width: number, blocks: readonly Block[], gaps: readonly number[]): Canvas {
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

export interface TextStyle {
  readonly size: number;
  readonly bold?: boolean;
  readonly color?: string;
  readonly align?: 'left' | 'center' | 'right';
}

/** Writes one line of text at (x, baseline). */
export function write(
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

/**
 * Text broken into lines of at most `width` pixels. A wider word, for example a long file name, has its own line in a
 * smaller font.
 * @param measure any context; it measures the text
 */
export function paragraph(measure: SKRSContext2D, text: string, width: number, style: TextStyle): Block {
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
