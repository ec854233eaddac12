/**
 * The part of a file that is already downloaded. It is a folder beside the file, with the bytes and a description of
 * the server's file. A process owns its folder, so that processes do not write to the same bytes. A process takes over
 * the folder of an ended process by renaming it, which only one process can do.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { readJson, writeJson } from '../data/files.ts';

/** What the server said about its file. A part continues only the same file. */
export interface ServerFile {
  readonly address: string;
  /** A strong ETag, otherwise the time of the last change: the value of If-Range. Null: the server states neither. */
  readonly validator: string | null;
  /** Bytes of the whole file; null if unknown. */
  readonly total: number | null;
}

const SERVER_FILE = v.object({
  address: v.string(),
  validator: v.nullable(v.string()),
  total: v.nullable(v.pipe(v.number(), v.integer(), v.minValue(0))),
});

const ENDING = '.part';
/** Without a write for this time, a part of another machine or container counts as abandoned. */
const ABANDONED_AFTER_MS = 60 * 60 * 1000;
const HOST = hostname().replaceAll(/[^A-Za-z0-9]/g, '') || 'host';
/** Names this process, also among earlier processes with its id. */
const TOKEN = randomBytes(4).toString('hex');
let created = 0;

export class PartialDownload {
  private readonly path: string;
  private fd: number | null = null;
  /** Bytes that are there. */
  size = 0;
  /** The server's file that the bytes are from; null if there are no bytes. */
  server: ServerFile | null = null;

  /**
   * Takes over the largest abandoned part of the file, or begins with no bytes.
   * @param folder must exist
   * @throws the error of the file system
   */
  constructor(
    private readonly folder: string,
    private readonly file: string,
  ) {
    this.path = join(folder, `${file}.${HOST}-${process.pid}-${TOKEN}-${created++}${ENDING}`);
    const adopted = abandonedParts(folder, file).some((name) => this.adopt(join(folder, name)));
    if (!adopted) mkdirSync(this.path);
    this.server = adopted ? this.readServerFile() : null;
    this.size = this.server ? (statSync(this.data, { throwIfNoEntry: false })?.size ?? 0) : 0;
  }

  private get data(): string {
    return join(this.path, 'data');
  }

  private get description(): string {
    return join(this.path, 'server.json');
  }

  private adopt(abandoned: string): boolean {
    try {
      renameSync(abandoned, this.path);
      return true;
    } catch {
      return false; // Another process was faster.
    }
  }

  private readServerFile(): ServerFile | null {
    try {
      return v.parse(SERVER_FILE, readJson(this.description));
    } catch {
      return null; // Interrupted before the description was complete: the bytes cannot be used.
    }
  }

  /** Drops the bytes and begins with the server's file `server`. */
  begin(server: ServerFile): void {
    const fd = this.open();
    if (this.size > 0) ftruncateSync(fd, 0);
    this.size = 0;
    this.server = server;
    writeJson(this.description, server);
  }

  append(bytes: Uint8Array): void {
    const fd = this.open();
    for (let at = 0; at < bytes.length; ) {
      const written = writeSync(fd, bytes, at, bytes.length - at, this.size);
      at += written;
      this.size += written;
    }
  }

  private open(): number {
    this.fd ??= openSync(this.data, existsSync(this.data) ? 'r+' : 'w');
    return this.fd;
  }

  /** Flushes the bytes to the disk and closes the file. Returns the path of the bytes. */
  close(): string {
    if (this.fd !== null) {
      const fd = this.fd;
      this.fd = null;
      try {
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    }
    return this.data;
  }

  /** Makes the bytes the file, in place of an existing one. */
  finish(): void {
    renameSync(this.close(), join(this.folder, this.file));
    this.discard();
  }

  /** Keeps the bytes for a later process. */
  release(): void {
    try {
      this.close();
      if (this.size > 0 && this.server) renameSync(this.path, join(this.folder, `${this.file}${ENDING}`));
      else this.discard();
    } catch {
      // A part of an ended process can be taken over under any name. If one exists under this name, both are kept.
    }
  }

  /** Removes the bytes. */
  discard(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Removes the abandoned parts of a file that is complete. */
export function removeAbandonedParts(folder: string, file: string): void {
  for (const name of abandonedParts(folder, file)) rmSync(join(folder, name), { recursive: true, force: true });
}

/** The names of parts that no process owns, the largest first. */
function abandonedParts(folder: string, file: string): string[] {
  const bytesOf = (name: string): number => statSync(join(folder, name, 'data'), { throwIfNoEntry: false })?.size ?? 0;
  return readdirSync(folder)
    .filter((name) => name.startsWith(`${file}.`) && name.endsWith(ENDING))
    .filter((name) => isAbandoned(join(folder, name), name.slice(file.length, -ENDING.length)))
    .sort((a, b) => bytesOf(b) - bytesOf(a));
}

/** @param owner the part of the name between file and ending; empty for a part that was released */
function isAbandoned(path: string, owner: string): boolean {
  if (owner === '') return true;
  const match = /^\.([A-Za-z0-9]+)-(\d+)-([0-9a-f]+)-\d+$/.exec(owner);
  if (!match) return false;
  const [, host, pid, token] = match;
  if (host === HOST) return token !== TOKEN && (Number(pid) === process.pid || !isRunning(Number(pid)));
  const changed = statSync(join(path, 'data'), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return Date.now() - changed > ABANDONED_AFTER_MS;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
