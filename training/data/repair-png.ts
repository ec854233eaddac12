/**
 * Repairs damaged PNG files: keeps the pixels before the damage. libvips gives up too early on such files.
 * PNG specification, third edition: https://www.w3.org/TR/png-3/
 */
import { constants, crc32, createInflate, deflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** Chunks that change the meaning of pixels or the orientation. All others are not needed. */
const KEPT: readonly string[] = ['PLTE', 'tRNS', 'eXIf'];

/** Samples per pixel by color type. */
const SAMPLES: Readonly<Record<number, number>> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };

/** Adam7: start and step of the columns and rows of each pass. */
const PASSES = [
  [0, 8, 0, 8],
  [4, 8, 0, 8],
  [0, 4, 4, 8],
  [2, 4, 0, 4],
  [0, 2, 2, 4],
  [1, 2, 0, 2],
  [0, 1, 1, 2],
] as const;

/** Above this many bytes of pixels, no repair is tried. */
const MAX_BYTES = 2 ** 30;

export const isPng = (file: Uint8Array): boolean => SIGNATURE.equals(file.subarray(0, SIGNATURE.length));

/** An intact PNG file with the pixels before the damage, the others black; null if there are none. */
export async function repairPng(file: Buffer): Promise<Buffer | null> {
  const header = file.subarray(16, 29);
  if (!isPng(file) || header.length < 13) return null;
  const parts = rowsOf(header);
  const expected = parts.reduce((sum, { count, bytes }) => sum + count * bytes, 0);
  if (expected === 0 || expected > MAX_BYTES) return null;
  const { kept, data } = readChunks(file);
  const pixels = Buffer.alloc(expected);
  if ((await inflateInto(data, pixels)) === 0) return null;
  clearInvalidRows(pixels, parts);
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', header),
    ...kept,
    chunk('IDAT', deflateSync(pixels, { level: 1 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

/** Rows of equal length that follow each other. */
interface Rows {
  readonly count: number;
  /** Bytes of a row: the filter type, and the pixels. */
  readonly bytes: number;
}

/** The rows of an image before compression, by pass if it is interlaced; empty if the header is not valid. */
function rowsOf(header: Buffer): Rows[] {
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const samples = SAMPLES[header[9]];
  if (samples === undefined) return [];
  const rows = (columns: number, count: number): Rows => ({
    count: columns > 0 ? count : 0,
    bytes: 1 + Math.ceil((columns * samples * header[8]) / 8),
  });
  if (header[12] === 0) return [rows(width, height)];
  return PASSES.map(([x, stepX, y, stepY]) =>
    rows(Math.max(0, Math.ceil((width - x) / stepX)), Math.max(0, Math.ceil((height - y) / stepY))),
  );
}

/** Damage may give rows with unknown filter types. They and the rows behind them become black. */
function clearInvalidRows(pixels: Buffer, parts: readonly Rows[]): void {
  let at = 0;
  for (const { count, bytes } of parts)
    for (let row = 0; row < count; row++, at += bytes) if (pixels[at] > 4) pixels.fill(0, at);
}

/** The compressed pixels, as far as they are there, and the kept chunks before them. */
function readChunks(file: Buffer): { kept: Buffer[]; data: Buffer } {
  const kept: Buffer[] = [];
  const data: Buffer[] = [];
  for (let at = 33; at + 8 <= file.length; ) {
    const length = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    const content = file.subarray(at + 8, at + 8 + length);
    if (type === 'IDAT') data.push(content);
    else if (KEPT.includes(type) && content.length === length) kept.push(chunk(type, content));
    at += 12 + length;
  }
  return { kept, data: Buffer.concat(data) };
}

/** Decompresses until the end, the first error, or until `target` is full. Resolves to the number of bytes. */
function inflateInto(data: Buffer, target: Buffer): Promise<number> {
  return new Promise((resolve) => {
    let at = 0;
    // After an error, the output since the last full piece is lost. So the pieces are small.
    const inflate = createInflate({ finishFlush: constants.Z_SYNC_FLUSH, chunkSize: 256 });
    inflate.on('data', (piece: Buffer) => {
      at += piece.copy(target, at);
    });
    inflate.on('error', () => resolve(at));
    inflate.on('end', () => resolve(at));
    inflate.end(data);
  });
}

function chunk(type: string, content: Buffer): Buffer {
  const result = Buffer.alloc(content.length + 12);
  result.writeUInt32BE(content.length, 0);
  result.write(type, 4, 'latin1');
  content.copy(result, 8);
  result.writeUInt32BE(crc32(result.subarray(4, 8 + content.length)), 8 + content.length);
  return result;
}
