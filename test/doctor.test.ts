/** `npm run doctor`: its report about this machine, and the values that it reads from Mesa's adapter names. */
import { expect, test, vi } from 'vitest';
import { mesaVersion, runDoctor, vectorBits } from '../training/commands/doctor.ts';
import { InputError } from '../training/core/errors.ts';

test('reports the driver, the bounds checks and passed self-tests', async () => {
  const lines: string[] = [];
  const log = vi.spyOn(console, 'log').mockImplementation((line: string) => {
    lines.push(line);
  });
  const code = await runDoctor([]).finally(() => log.mockRestore());
  const report = lines.join('\n');
  expect(report).toMatch(/^driver {5}\S+/m);
  expect(report).toMatch(/^bounds {5}(not )?checked by (Dawn|the driver, so Dawn's checks are disabled)/m);
  expect(report).toMatch(/^self-test .*ok.* GB\/s\n.*ok.* GFLOP\/s$/m);
  expect(code).toBe(0);
});

test('accepts no arguments', async () => {
  await expect(runDoctor(['--fast'])).rejects.toThrow(InputError);
});

test("reads Mesa's version in a description", () => {
  expect(mesaVersion('llvmpipe: Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6) 0.0.1')).toBe('25.0.7');
  expect(mesaVersion('NVIDIA: 550.54.15')).toBeNull();
});

test("reads the width of lavapipe's vectors in its name", () => {
  expect(vectorBits('llvmpipe-llvm-15-0-6-256-bits-')).toBe(256);
  expect(vectorBits('llvmpipe-llvm-19-1-7-512-bits-')).toBe(512);
  expect(vectorBits('swiftshader-device-llvm-10-0-0-')).toBeNull();
});
