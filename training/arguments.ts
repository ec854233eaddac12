/** Reading a subcommand's arguments: unknown or missing ones are errors that name them. */
import { parseArgs, type ParseArgsConfig } from 'node:util';
import { InputError } from './errors.ts';

type Options = NonNullable<ParseArgsConfig['options']>;

/** Strict `parseArgs`. Throws InputError that begins with the command's name. */
export function parseArguments<O extends Options, P extends boolean = false>(command: string, argv: readonly string[], options: O, allowPositionals?: P) {
  try {
    return parseArgs({ args: [...argv], options, strict: true, allowPositionals: allowPositionals ?? false });
  } catch (error) {
    throw new InputError(`${command}: ${error instanceof Error ? error.message : String(error)} (see npm run ${command} -- --help)`);
  }
}

/** An integer option. Throws InputError naming it. */
export function integerOption(command: string, name: string, text: string, least: number): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < least) throw new InputError(`${command}: --${name}: expected an integer >= ${least}, got ${JSON.stringify(text)}`);
  return value;
}

/** A numeric option within bounds. Throws InputError naming it. */
export function numberOption(command: string, name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (text.trim() === '' || !(value >= least && value <= most)) throw new InputError(`${command}: --${name}: expected a number in ${least} .. ${most}, got ${JSON.stringify(text)}`);
  return value;
}
