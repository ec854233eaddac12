/**
 * Reads large JSON files, also those that do not fit a JavaScript string (536,870,888 characters).
 *
 * Large lists are the file itself, if it is a list, and the lists in a top-level object: COCO's `images` and
 * `annotations`. Their elements are parsed in batches of a few kilobytes. A scan of strings and brackets finds where a
 * batch may end. The rest of the file, with a number in place of each batch, is the outline. JSON.parse parses batches
 * and outline, so it alone decides what valid JSON is.
 *
 * Libraries that stream JSON need longer for the tokens alone than this reader for the whole file: on one core,
 * @streamparser/json 0.0.26 reads 26 MB/s, and this reader about 85 MB/s.
 */
import { constants, isAscii } from 'node:buffer';
import { closeSync, openSync, readSync } from 'node:fs';
import { errorMessage } from '../../engine/core/errors.ts';
import { isObject } from '../core/checks.ts';
import { InputError } from '../core/errors.ts';
import { malformed, parseJsonWithNaN, type JsonProblem, type ParsedJson } from './json-text.ts';

/** What to keep of an element of a large list. `list` is the list's key; empty if the file itself is a list. */
export type KeepElement = (list: string, element: unknown) => unknown;

export interface LargeJsonOptions {
  /** Called once for each element of a large list; default: elements are kept as they are. */
  readonly keep?: KeepElement;
  /** About the number of bytes in a batch. Default 2^14: larger ones cost the garbage collector more. */
  readonly batchBytes?: number;
  /** The number of bytes that are read at once. Default 2^23. */
  readonly chunkBytes?: number;
  /** The largest number of bytes that one string may have. */
  readonly maxTextBytes?: number;
}

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];
const BYTE_ORDER_MARK = Buffer.from('\uFEFF');

/**
 * The content of a JSON file of any size. `NaN` and `Infinity` become null.
 * @throws InputError with line and column for malformed JSON; also if one element of a large list, or everything
 * outside of the large lists together, does not fit a string
 */
export function readLargeJson(file: string, options: LargeJsonOptions = {}): unknown {
  let handle: number;
  try {
    handle = openSync(file, 'r');
  } catch (error) {
    throw new InputError(`${file}: cannot be read: ${errorMessage(error)}`);
  }
  try {
    const content = new Content(file, handle, options.keep ?? ((_, element) => element));
    new Scanner(file, handle, content, options).scan();
    return content.finish();
  } finally {
    closeSync(handle);
  }
}

/** Replaces the elements of a value's large lists by what `keep` returns for them. */
export function keepInLists(value: unknown, keep: KeepElement): void {
  const replace = (name: string, list: unknown[]) => {
    for (let i = 0; i < list.length; i++) list[i] = keep(name, list[i]);
  };
  if (Array.isArray(value)) replace('', value);
  else if (isObject(value))
    for (const [name, list] of Object.entries(value)) if (Array.isArray(list)) replace(name, list);
}

/** Bytes of the byte order mark at the file's beginning. */
function markLength(handle: number): number {
  const bytes = Buffer.alloc(BYTE_ORDER_MARK.length);
  readSync(handle, bytes, 0, bytes.length, 0);
  return bytes.equals(BYTE_ORDER_MARK) ? bytes.length : 0;
}

/** Cuts a file into pieces: the outline's text and the batches. */
class Scanner {
  private readonly file: string;
  private readonly handle: number;
  private readonly content: Content;
  private readonly batchBytes: number;
  private readonly chunkBytes: number;
  private readonly maxTextBytes: number;
  /** A window of the file. Indices below are relative to its beginning. */
  private bytes: Buffer;
  private length = 0;
  /** The window's place in the file. */
  private offset = 0;
  /** Beginning of the piece that is not handed over yet. */
  private start = 0;
  private at = 0;
  private depth = 0;
  private inString = false;
  private topIsObject = false;
  /** Depth of the elements of the open large list; 0 outside of large lists. */
  private listDepth = 0;
  /** The last string at depth 1: the key of the list that opens next. */
  private keyStart = 0;
  private keyEnd = 0;

  constructor(file: string, handle: number, content: Content, options: LargeJsonOptions) {
    this.file = file;
    this.handle = handle;
    this.content = content;
    this.batchBytes = options.batchBytes ?? 1 << 14;
    this.chunkBytes = options.chunkBytes ?? 1 << 23;
    this.maxTextBytes = options.maxTextBytes ?? constants.MAX_STRING_LENGTH;
    this.bytes = Buffer.allocUnsafe(this.chunkBytes * 2);
    this.offset = markLength(handle);
  }

  scan(): void {
    while (this.fill()) this.scanWindow();
    this.endPiece(this.length);
    // In a list that does not end, the outline's error is at the end of the file.
    this.listDepth = 0;
    this.endPiece(this.length);
  }

  /** Reads further bytes, and drops those before `start`. Returns false at the file's end. */
  private fill(): boolean {
    const kept = this.length - this.start;
    if (kept > this.maxTextBytes)
      throw new InputError(
        `${this.file}: byte ${this.offset + this.start}: expected ` +
          `${this.listDepth > 0 ? 'list elements' : 'a text outside of the large lists'} of at most ` +
          `${this.maxTextBytes} bytes, got more`,
      );
    const target =
      kept + this.chunkBytes > this.bytes.length ? Buffer.allocUnsafe(kept * 2 + this.chunkBytes) : this.bytes;
    this.bytes.copy(target, 0, this.start, this.length);
    this.bytes = target;
    for (const index of ['at', 'keyStart', 'keyEnd'] as const) this[index] -= this.start;
    this.offset += this.start;
    this.start = 0;
    const count = readSync(this.handle, this.bytes, kept, this.chunkBytes, this.offset + kept);
    this.length = kept + count;
    return count > 0;
  }

  private scanWindow(): void {
    const { bytes, length } = this;
    let at = this.at;
    while (at < length) {
      const byte = bytes[at];
      if (this.inString) {
        // A backslash may be the window's last byte. Then `at` is behind the window, where the next one continues.
        if (byte === BACKSLASH) at++;
        else if (byte === QUOTE) this.endString(at);
      } else if (byte === QUOTE) {
        this.inString = true;
        if (this.depth === 1) this.keyStart = at;
      } else if (byte === OPEN_LIST || byte === OPEN_OBJECT) this.open(byte, at);
      else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) this.close(at);
      else if (byte === COMMA && this.depth === this.listDepth) this.endElement(at);
      at++;
    }
    this.at = at;
  }

  private endString(at: number): void {
    this.inString = false;
    if (this.depth === 1) this.keyEnd = at + 1;
  }

  private open(byte: number, at: number): void {
    this.depth++;
    if (this.depth === 1) this.topIsObject = byte === OPEN_OBJECT;
    const isLarge = byte === OPEN_LIST && this.depth === (this.topIsObject ? 2 : 1);
    if (!isLarge || this.listDepth > 0) return;
    const key = this.topIsObject ? this.bytes.toString('utf8', this.keyStart, this.keyEnd) : '""';
    this.endPiece(at + 1);
    this.content.beginList(key);
    this.listDepth = this.depth;
  }

  private close(at: number): void {
    if (this.depth === this.listDepth) {
      this.endPiece(at);
      this.listDepth = 0;
    }
    this.depth--;
  }

  /** A comma between two elements of a large list ends the batch, if that is long enough. */
  private endElement(at: number): void {
    if (this.listDepth === 0 || at - this.start < this.batchBytes) return;
    this.endPiece(at);
    const listDepth = this.listDepth;
    this.listDepth = 0;
    this.endPiece(at + 1);
    this.listDepth = listDepth;
  }

  /** Hands over the bytes from `start`, without copying them. */
  private endPiece(end: number): void {
    const piece = this.bytes.subarray(this.start, end);
    const offset = this.offset + this.start;
    if (this.listDepth > 0) this.content.addBatch(piece, offset);
    else this.content.addOutline(piece, offset);
    this.start = end;
  }
}

/** Parses the pieces of a file and puts them together. */
class Content {
  private readonly file: string;
  private readonly handle: number;
  private readonly keep: KeepElement;
  /** Pieces of the outline, and where each begins in the outline and in the file. */
  private readonly outline: Buffer[] = [];
  private readonly places: { readonly outline: number; readonly file: number }[] = [];
  private outlineBytes = 0;
  private readonly batches: unknown[][] = [];
  private list = '';

  constructor(file: string, handle: number, keep: KeepElement) {
    this.file = file;
    this.handle = handle;
    this.keep = keep;
  }

  /** `key`: a JSON string. If it is malformed, parsing the outline will say so. */
  beginList(key: string): void {
    const parsed = parseJsonWithNaN(key);
    this.list = 'value' in parsed && typeof parsed.value === 'string' ? parsed.value : '';
  }

  /** `piece` is copied. */
  addOutline(piece: Buffer, offset: number): void {
    this.places.push({ outline: this.outlineBytes, file: offset });
    this.outline.push(Buffer.from(piece));
    this.outlineBytes += piece.length;
  }

  addBatch(piece: Buffer, offset: number): void {
    // Decoding ASCII as such is many times faster.
    const text = piece.toString(isAscii(piece) ? 'latin1' : 'utf8');
    const parsed = parseJsonWithNaN(`[${text}]`);
    if ('problem' in parsed) {
      const { offset: inBatch, reason } = parsed.problem;
      throw this.malformedAt(offset + Buffer.byteLength(text.slice(0, Math.max(0, inBatch - 1))), reason);
    }
    const elements = parsed.value as unknown[];
    if (elements.length === 0) {
      // White space. Between two commas it is an error, which the outline's parser reports.
      this.addOutline(piece, offset);
      return;
    }
    for (let i = 0; i < elements.length; i++) elements[i] = this.keep(this.list, elements[i]);
    this.addOutline(Buffer.from(String(this.batches.length)), offset);
    this.batches.push(elements);
  }

  /** The file's content. Throws InputError for a malformed outline. */
  finish(): unknown {
    const text = Buffer.concat(this.outline).toString('utf8');
    const parsed: ParsedJson = parseJsonWithNaN(text);
    if ('problem' in parsed) throw this.malformedOutline(text, parsed.problem);
    const { value } = parsed;
    if (Array.isArray(value)) this.fillIn(value);
    else if (isObject(value)) for (const entry of Object.values(value)) if (Array.isArray(entry)) this.fillIn(entry);
    return value;
  }

  /** Replaces the numbers of batches by the elements. */
  private fillIn(list: unknown[]): void {
    const numbers = list.splice(0) as number[];
    for (const number of numbers) for (const element of this.batches[number]) list.push(element);
  }

  private malformedOutline(text: string, { offset, reason }: JsonProblem): InputError {
    const bytes = Buffer.byteLength(text.slice(0, offset));
    const place = this.places.findLast(({ outline }) => outline <= bytes) ?? { outline: 0, file: 0 };
    return this.malformedAt(place.file + bytes - place.outline, reason);
  }

  private malformedAt(byte: number, reason: string): InputError {
    return malformed(this.file, { ...this.lineAndColumn(byte), reason });
  }

  /** Line and column, both from 1 and in UTF-16 units, of a byte of the file. */
  private lineAndColumn(end: number): { readonly line: number; readonly column: number } {
    const chunk = Buffer.allocUnsafe(1 << 20);
    let [line, column] = [1, 1];
    for (let offset = markLength(this.handle); offset < end; ) {
      const count = readSync(this.handle, chunk, 0, Math.min(chunk.length, end - offset), offset);
      if (count === 0) break;
      for (const byte of chunk.subarray(0, count)) {
        if (byte === 0x0a) [line, column] = [line + 1, 1];
        // Bytes that continue a character do not count; characters of four bytes are two UTF-16 units.
        else if ((byte & 0xc0) !== 0x80) column += byte >= 0xf0 ? 2 : 1;
      }
      offset += count;
    }
    return { line, column };
  }
}
