/** `npm run doctor`: what it says of this machine, and how it reads Mesa's names. */
import { expect, test, vi } from 'vitest';
import { mesaVersion, runDoctor, vectorBits } from '../training/commands/doctor.ts';
import { InputError } from '../training/core/errors.ts';

test('finds this machine well and says on what it runs', async () => {
  const lines: string[] = [];
  const log = vi.spyOn(console, 'log').mockImplementation((line: string) => {
    lines.push(line);
  });
  const code = await runDoctor([]).finally(() => log.mockRestore());
  const report = lines.join('\n');
  expect(report).toMatch(/^driver {5}\S+/m);
  expect(report).toMatch(/^bounds {5}(not )?checked by (Dawn|the driver itself, so Dawn leaves its own checks out)/m);
  expect(report).toMatch(/^self-test .*ok.* GB\/s\n.*ok.* GFLOP\/s$/m);
  expect(code).toBe(0);
});

test('takes no arguments', async () => {
  await expect(runDoctor(['--fast'])).rejects.toThrow(InputError);
});

test("reads Mesa's version out of a description", () => {
  expect(mesaVersion('llvmpipe: Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6) 0.0.1')).toBe('25.0.7');
  expect(mesaVersion('NVIDIA: 550.54.15')).toBeNull();
});

test("reads the width of lavapipe's vectors out of its name", () => {
  expect(vectorBits('llvmpipe-llvm-15-0-6-256-bits-')).toBe(256);
  expect(vectorBits('llvmpipe-llvm-19-1-7-512-bits-')).toBe(512);
  expect(vectorBits('swiftshader-device-llvm-10-0-0-')).toBeNull();
});
