/** Unpacks SwiftShader from an installed npm package, for the tests that also run on it. */
import { execFileSync } from 'node:child_process';

export default function prepare(): void {
  execFileSync(process.execPath, ['training/setup/setup.mjs'], {
    env: { ...process.env, DSRCNN_DRIVER: 'swiftshader' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}
