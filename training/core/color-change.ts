/**
 * Random changes of colors. Each change is linear in RGB, so one matrix does them all: brightness, contrast about
 * middle gray, saturation about luma, and a turn of the hue in the plane of equal luma (YIQ).
 */
import type { Random } from '../../engine/core/random.ts';
import type { ColorAugmentation } from './augmentation.ts';

/** Rows of an affine map of RGB values in 0 .. 255: new red = r[0] * red + r[1] * green + r[2] * blue + r[3], ... */
export type ColorChange = readonly [red: ColorRow, green: ColorRow, blue: ColorRow];
export type ColorRow = readonly [number, number, number, number];

/** Luma of BT.601, as in JPEG. */
const LUMA = [0.299, 0.587, 0.114] as const;
const MIDDLE = 127.5;

/** RGB to YIQ (NTSC, as in Python's colorsys but with more digits), and back. */
const TO_I = [0.595716, -0.274453, -0.321263] as const;
const TO_Q = [0.211456, -0.522591, 0.311135] as const;
const FROM_I = [0.956295, -0.272122, -1.106989] as const;
const FROM_Q = [0.621025, -0.647381, 1.704615] as const;

/** Draws a change of colors; null, without drawing a number, if the settings change nothing. */
export function drawColorChange(settings: ColorAugmentation, random: Random): ColorChange | null {
  const { brightness, contrast, saturation, hue, gray } = settings;
  if (brightness === 0 && contrast === 0 && saturation === 0 && hue === 0 && gray === 0) return null;
  const around = (center: number, range: number) => center + range * (2 * random.uniform() - 1);
  const drawn = {
    brightness: around(1, brightness),
    contrast: around(1, contrast),
    saturation: around(1, saturation),
    hue: around(0, hue),
  };
  return colorChange(random.uniform() < gray ? { ...drawn, saturation: 0 } : drawn);
}

/**
 * The matrix of a change.
 * @param change factors of brightness, contrast and saturation (1: no change), and an angle of the hue in degrees
 */
export function colorChange(change: {
  brightness: number;
  contrast: number;
  saturation: number;
  hue: number;
}): ColorChange {
  const { brightness, contrast, saturation, hue } = change;
  const angle = (hue * Math.PI) / 180;
  const [cos, sin] = [saturation * Math.cos(angle), saturation * Math.sin(angle)];
  const gain = brightness * contrast;
  const offset = MIDDLE * (1 - contrast);
  const row = (channel: 0 | 1 | 2): ColorRow => {
    const [fromI, fromQ] = [FROM_I[channel], FROM_Q[channel]];
    const weight = (of: 0 | 1 | 2) =>
      gain * (LUMA[of] + fromI * (cos * TO_I[of] - sin * TO_Q[of]) + fromQ * (sin * TO_I[of] + cos * TO_Q[of]));
    return [weight(0), weight(1), weight(2), offset];
  };
  return [row(0), row(1), row(2)];
}
