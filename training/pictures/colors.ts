/** Colors of classes, and of text on them. */

const DARK = '#000000';
const LIGHT = '#ffffff';

/**
 * Colors of the first classes. They differ from each other and from most photographs. The first eight also differ
 * for readers with the common color blindnesses.
 */
const PALETTE = [
  '#ff4d4d',
  '#2f9bff',
  '#ffc21a',
  '#1fc98b',
  '#c46bff',
  '#ff8a1f',
  '#23d3ee',
  '#f25fb0',
  '#9bd32a',
  '#6f7dff',
  '#c98a5a',
  '#00a39b',
];

/** The color of a class as #rrggbb: a fixed palette, then hues by the golden angle, so that neighbors differ. */
export function colorOf(label: number): string {
  if (label < PALETTE.length) return PALETTE[label];
  const hue = (label * 137.508) % 360;
  const lightness = [0.62, 0.5, 0.72][label % 3];
  const channel = (offset: number) => {
    const k = (offset + hue / 30) % 12;
    const value = lightness - 0.8 * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value)
      .toString(16)
      .padStart(2, '0');
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

/** Black or white, whichever has more contrast with `background` (#rrggbb). WCAG's contrast ratio is at least 4.5. */
export function textColorOn(background: string): string {
  const luminance = relativeLuminance(background);
  const darkLuminance = relativeLuminance(DARK);
  return (luminance + 0.05) / (darkLuminance + 0.05) > 1.05 / (luminance + 0.05) ? DARK : LIGHT;
}

function relativeLuminance(color: string): number {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const value = Number.parseInt(color.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
