/** Unpacks SwiftShader (out of an npm package that is already there) for the tests that run on it besides the chosen adapter. */
import { execFileSync } from 'node:child_process';

export default function prepare(): void {
  execFileSync(process.execPath, ['training/setup/setup.mjs'], {
    env: { ...process.env, DSRCNN_DRIVER: 'swiftshader' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}
