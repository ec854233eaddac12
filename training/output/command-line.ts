/** Commands and paths in a form that the user can copy into a shell. */
import { relative } from 'node:path';

/** Arguments quoted for a POSIX shell. */
export function quoteArguments(argv: readonly string[]): string {
  return argv
    .map((argument) => (/^[\w./,=:+-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", "'\\''")}'`))
    .join(' ');
}

/** A path below the current folder as a relative path; other paths unchanged. */
export function shortPath(path: string): string {
  const short = relative('.', path);
  return short === '' || short.startsWith('..') ? path : short;
}
