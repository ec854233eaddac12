/** The flags that Dawn's instance is made with. */
import { appliedDriverChecksBounds } from './driver-choice.ts';

/**
 * Flags for Dawn's `create`. Call it after `applyDriverChoice`. It is for every instance in this process, so that other
 * libraries run beside our devices with the same settings.
 *
 * - Timestamps are not rounded. Dawn rounds them to 65 us against spying web pages. Most dispatches are shorter.
 * - Dawn's bounds checks (robustness) are disabled where the driver has its own. Dawn's checks begin every shader
 *   with a reduction over the subgroup, and clamp the lane of every broadcast and shuffle. Lavapipe's compiler cannot
 *   remove that. With vectors of 512 bits matrix products take about a tenth longer, with 256 bits there is no
 *   difference. On a driver that does not check, an access beyond the end would reach other memory. Lavapipe does not
 *   check arrays in workgroup memory. There an index beyond the end, which Dawn would clamp, may end the process.
 *
 * DSRCNN_ROBUSTNESS=on keeps Dawn's checks for a run, and `off` disables them on every driver. Other values throw.
 */
export function dawnFlags(environment: NodeJS.ProcessEnv = process.env): string[] {
  const named = environment.DSRCNN_ROBUSTNESS || null;
  if (named !== null && named !== 'on' && named !== 'off')
    throw new Error(`DSRCNN_ROBUSTNESS: expected on or off, got ${JSON.stringify(named)}`);
  const unchecked = named === null ? appliedDriverChecksBounds() : named === 'off';
  return [
    'disable-dawn-features=timestamp_quantization',
    ...(unchecked ? ['enable-dawn-features=disable_robustness'] : []),
  ];
}
