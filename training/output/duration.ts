/** Durations as text for the user. */

/** 75 -> "1:15", 3725 -> "1:02:05", 90000 -> "1d 01:00:00"; "?" for an unknown time (NaN, infinity). */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  const whole = Math.max(0, Math.round(seconds));
  const twoDigits = (value: number) => String(value).padStart(2, '0');
  const [days, hours, minutes, rest] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
    whole % 60,
  ];
  if (days > 0) return `${days}d ${twoDigits(hours)}:${twoDigits(minutes)}:${twoDigits(rest)}`;
  return hours > 0 ? `${hours}:${twoDigits(minutes)}:${twoDigits(rest)}` : `${minutes}:${twoDigits(rest)}`;
}
