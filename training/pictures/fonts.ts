/** The fonts of all pictures: DejaVu Sans from the npm package dejavu-fonts-ttf. No installed font is needed. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { GlobalFonts } from '@napi-rs/canvas';

/** The name of DejaVu Sans Bold. No installed font has this name, so none can replace it. */
export const BOLD_FONT = 'Detection tags';
/** The font family in the SVG of plots. */
const REGULAR_FONT = 'DejaVu Sans';

let registered = false;

/** Makes the fonts known to canvases; repeated calls do nothing. Throws if a font file cannot be used. */
export function registerFonts(): void {
  if (registered) return;
  const { resolve } = createRequire(import.meta.url);
  for (const [file, name] of [
    ['DejaVuSans-Bold.ttf', BOLD_FONT],
    ['DejaVuSans.ttf', REGULAR_FONT],
  ]) {
    const path = resolve(`dejavu-fonts-ttf/ttf/${file}`);
    if (!GlobalFonts.register(readFileSync(path), name)) throw new Error(`${path}: expected a font file`);
  }
  registered = true;
}

/** A CSS font of `size` pixels for text on a canvas. */
export function captionFont(size: number, bold = false): string {
  registerFonts();
  return `${size}px "${bold ? BOLD_FONT : REGULAR_FONT}"`;
}
