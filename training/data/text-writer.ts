/** Writes long text files piece by piece: a file may be longer than the longest string. */
import { closeSync, openSync, writeSync } from 'node:fs';

/** Characters that are collected before they are written. */
const BUFFERED = 1 << 20;

/** Calls `body` with a function that appends text to a new file. */
export function writeTextFile(path: string, body: (append: (text: string) => void) => void): void {
  const file = openSync(path, 'w');
  let pieces: string[] = [];
  let length = 0;
  const flush = () => {
    const bytes = Buffer.from(pieces.join(''));
    for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    pieces = [];
    length = 0;
  };
  try {
    body((text) => {
      pieces.push(text);
      length += text.length;
      if (length >= BUFFERED) flush();
    });
    flush();
  } finally {
    closeSync(file);
  }
}

/** Appends a JSON list, one element a line. */
export function appendList(append: (text: string) => void, elements: Iterable<unknown>): void {
  let separator = '\n';
  append('[');
  for (const element of elements) {
    append(`${separator}${JSON.stringify(element)}`);
    separator = ',\n';
  }
  append(separator === '\n' ? ']' : '\n]');
}
