/** Reading a subcommand's arguments: unknown or missing ones are errors that name them. */
import { mkdirSync } from 'node:fs';
import { parseArgs, type ParseArgsConfig } from 'node:util';
import { InputError } from '../core/errors.ts';

type Options = NonNullable<ParseArgsConfig['options']>;

/** Strict `parseArgs`; `-h` is `--help`. Throws InputError that begins with the command's name. */
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
      throw new InputError(
        `${command}: ${error instanceof Error ? error.message.replaceAll('\n', ' ') : String(error)} (see npm run ${command} -- --help)`,
      );
    }
  };
  const parsed = parse();
  // What a shell makes of "$UNSET"; as a path it would be the current folder.
  for (const [name, value] of Object.entries(parsed.values))
    if (value === '') throw new InputError(`${command}: --${name}: expected a value, got an empty text`);
  return parsed;
}

/** Gives an option whose value may be left out (`--name`, or `--name VALUE`) the value `unsaid` where nothing follows it; for commands without positional arguments. */
export function optionalValue(argv: readonly string[], name: string, unsaid: string): string[] {
  return argv.map((argument, i) => {
    const next = argv[i + 1];
    return argument === `--${name}` && (next === undefined || next.startsWith('-')) ? `--${name}=${unsaid}` : argument;
  });
}

/** Makes the folder of `--out` and those above it. Throws InputError where that is not possible. */
export function outputFolder(command: string, path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw new InputError(
      `${command}: --out: expected a folder that can be written, got ${path} (${error instanceof Error ? error.message : String(error)})`,
    );
  }
}

/** An integer option. Throws InputError naming it. */
export function integerOption(command: string, name: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < least)
    throw new InputError(`${command}: --${name}: expected an integer >= ${least}, got ${JSON.stringify(text)}`);
  return value;
}

/** A numeric option within bounds. Throws InputError naming it. */
export function numberOption(command: string, name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= least && value <= most))
    throw new InputError(
      `${command}: --${name}: expected a number in ${least} .. ${most}, got ${JSON.stringify(text)}`,
    );
  return value;
}

/** What `read` gives. An InputError is printed instead, and ends the process with code 2: for programs that are scripts. */
export function orExit<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    process.stderr.write(`error: ${error.message}\n`);
    return process.exit(2);
  }
}
