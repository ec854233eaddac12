/** Flags of Dawn's instance. */
import { appliedDriverChecksBounds } from './driver-choice.ts';

/**
 * Flags for Dawn's `create`. Call this function after `applyDriverChoice`. Use the flags for every instance in this
 * process. Then other libraries run in the same process as our devices with the same settings.
 *
 * - Timestamps are not rounded. By default Dawn rounds them to 65 us as a protection against spying web pages. Most
 *   dispatches are shorter.
 * - Dawn's bounds checks (robustness) are disabled if the driver has its own. Dawn's checks begin every shader with a
 *   reduction over the subgroup, and clamp the lane of every broadcast and shuffle. Lavapipe's compiler cannot remove
 *   this code. With vectors of 512 bits, matrix products then take about a tenth longer. With 256 bits there is no
 *   difference. On a driver without checks of its own, an access beyond the end would reach other memory. Lavapipe does
 *   not check arrays in workgroup memory. An index beyond their end, which Dawn would clamp, may end the process.
 *
 * DSRCNN_ROBUSTNESS=on keeps Dawn's checks for a run, and `off` disables them on every driver. Other values throw.
 */
export function dawnFlags(environment: NodeJS.ProcessEnv = process.env): string[] {
  const robustness = environment.DSRCNN_ROBUSTNESS || null;
  if (robustness !== null && robustness !== 'on' && robustness !== 'off')
    throw new Error(`DSRCNN_ROBUSTNESS: expected on or off, got ${JSON.stringify(robustness)}`);
  const disablesChecks = robustness === null ? appliedDriverChecksBounds() : robustness === 'off';
  return [
    'disable-dawn-features=timestamp_quantization',
    ...(disablesChecks ? ['enable-dawn-features=disable_robustness'] : []),
  ];
}
