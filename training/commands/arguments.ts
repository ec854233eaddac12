/** Reads the arguments of commands. Errors name the command and the option. */
import { mkdirSync } from 'node:fs';
import { parseArgs, type ParseArgsConfig } from 'node:util';
import { errorMessage } from '../../engine/core/errors.ts';
import { InputError } from '../core/errors.ts';

type Options = NonNullable<ParseArgsConfig['options']>;

/**
 * `parseArgs` of Node in strict mode; `-h` means `--help`.
 * @param command names the command in errors
 * @throws InputError for unknown options, missing values and empty values
 */
export function parseArguments<O extends Options, P extends boolean = false>(
  command: string,
  argv: readonly string[],
  options: O,
  allowPositionals?: P,
) {
  const parse = () => {
    try {
      return parseArgs({
        args: argv[0] === '-h' ? ['--help'] : [...argv],
        options,
        strict: true,
        allowPositionals: allowPositionals ?? false,
      });
    } catch (error) {
      const reason = error instanceof Error ? error.message.replaceAll('\n', ' ') : String(error);
      throw new InputError(`${command}: ${reason} (see npm run ${command} -- --help)`);
    }
  };
  const parsed = parse();
  // A shell turns "$UNSET" into an empty text. As a path it would be the current folder.
  for (const [name, value] of Object.entries(parsed.values))
    if (value === '') throw new InputError(`${command}: --${name}: expected a value, got an empty text`);
  return parsed;
}

/**
 * Gives the option `--name` the value `fallback` if no value follows it. For commands without positional arguments.
 */
export function optionalValue(argv: readonly string[], name: string, fallback: string): string[] {
  return argv.map((argument, i) => {
    const next = argv[i + 1];
    const hasValue = next !== undefined && !next.startsWith('-');
    return argument === `--${name}` && !hasValue ? `--${name}=${fallback}` : argument;
  });
}

/** Makes the folder of `--out` and those above it. Throws InputError if that is not possible. */
export function outputFolder(command: string, path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    const reason = errorMessage(error);
    throw new InputError(`${command}: --out: expected a folder that can be written, got ${path} (${reason})`);
  }
}

/** An integer option. Throws InputError naming it. */
export function integerOption(command: string, name: string, text: string, minimum: number): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < minimum)
    throw new InputError(`${command}: --${name}: expected an integer >= ${minimum}, got ${JSON.stringify(text)}`);
  return value;
}

/**
 * A duration in seconds: hours, minutes and seconds, such as `10m`, `90s` or `1h30m`. Throws InputError naming the
 * option.
 */
export function durationOption(command: string, name: string, text: string): number {
  const [, ...parts] = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$/.exec(text.trim()) ?? [];
  const [hours, minutes, seconds] = parts.map((part) => Number(part ?? 0));
  const total = 3600 * hours + 60 * minutes + seconds;
  if (!(total > 0))
    throw new InputError(
      `${command}: --${name}: expected a duration such as 10m, 90s or 1h30m, got ${JSON.stringify(text)}`,
    );
  return total;
}

/** A numeric option in minimum .. maximum. Throws InputError naming it. */
export function numberOption(
  command: string,
  name: string,
  text: string,
  [minimum, maximum]: readonly [number, number],
): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= minimum && value <= maximum))
    throw new InputError(
      `${command}: --${name}: expected a number in ${minimum} .. ${maximum}, got ${JSON.stringify(text)}`,
    );
  return value;
}

/** The result of `read`. For programs without cli.ts: prints an InputError and ends the process with exit code 2. */
export function orExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    return process.exit(2);
  }
}
