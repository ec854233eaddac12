/** Writes pictures as PNG files, and renders SVG text as a picture. */
import { writeFileSync } from 'node:fs';
import { type Canvas, createCanvas, Image } from '@napi-rs/canvas';
import { registerFonts } from './fonts.ts';

/** Writes a picture as a PNG file. */
export function writePng(path: string, canvas: Canvas): void {
  writeFileSync(path, canvas.toBuffer('image/png'));
}

/**
 * Renders SVG text with `scale` pixels per SVG unit. Text in the family DejaVu Sans uses the font of `fonts.ts`,
 * independent of the installed fonts.
 */
export async function rasterizeSvg(svg: string, scale = 2): Promise<Canvas> {
  registerFonts();
  const image = new Image();
  image.src = Buffer.from(svg);
  await image.decode();
  const canvas = createCanvas(Math.round(image.width * scale), Math.round(image.height * scale));
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  context.drawImage(image, 0, 0);
  return canvas;
}
