/** Tuned choices (tuner.ts) on disk, in Node: one JSON file for all adapters, written whole or not at all. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseTunedChoices, TUNING_VERSION, TuningError, type TunedChoices } from '../tuning/choices.ts';
import type { Tuner } from '../tuning/tuner.ts';

/** What the file holds: a record for each adapter, driver and subgroup size. Others' records are kept as they are, understood or not. */
interface TuningRecords {
  readonly version: typeof TUNING_VERSION;
  readonly adapters: readonly Readonly<Record<string, unknown>>[];
}

const REPAIR = 'delete it, or name another by DSRCNN_TUNING';

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The folder of what is kept for a user, whatever the checkout: below $XDG_CACHE_HOME or ~/.cache. */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string {
  return path.resolve(environment.XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'dynamic-sparse-rcnn-webgpu');
}

/** The file to use: `tuning` unless undefined, what DSRCNN_TUNING says, or tuning.json in the user's cache folder. Null for `off`. */
export function tuningFile(tuning?: string, environment: NodeJS.ProcessEnv = process.env): string | null {
  const named = tuning ?? (environment.DSRCNN_TUNING || undefined);
  if (named === 'off') return null;
  return path.resolve(named ?? path.join(cacheFolder(environment), 'tuning.json'));
}

function readRecords(file: string): TuningRecords {
  if (!existsSync(file)) return { version: TUNING_VERSION, adapters: [] };
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new TuningError(
      `${file}: not readable as JSON (${error instanceof Error ? error.message : String(error)}): ${REPAIR}`,
    );
  }
  const wrong = (field: string, expected: string, got: unknown): TuningError =>
    new TuningError(
      `${file}: ${field} must be ${expected}, got ${JSON.stringify(got)?.slice(0, 80) ?? 'nothing'}: ${REPAIR}`,
    );
  if (!isRecord(json)) throw wrong('the whole file', 'an object', json);
  if (json.version !== TUNING_VERSION) throw wrong('version', String(TUNING_VERSION), json.version);
  if (!Array.isArray(json.adapters)) throw wrong('adapters', 'a list', json.adapters);
  json.adapters.forEach((record: unknown, i) => {
    if (!isRecord(record)) throw wrong(`adapters[${i}]`, 'an object', record);
    for (const field of ['adapter', 'driver'])
      if (typeof record[field] !== 'string') throw wrong(`adapters[${i}].${field}`, 'text', record[field]);
  });
  return { version: TUNING_VERSION, adapters: json.adapters as TuningRecords['adapters'] };
}

/** Writes a new file beside the old one and renames it. */
function writeRecords(file: string, records: TuningRecords): void {
  mkdirSync(path.dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    const descriptor = openSync(temporary, 'w');
    try {
      const bytes = Buffer.from(`${JSON.stringify(records, null, 1)}\n`);
      for (let at = 0; at < bytes.length; ) at += writeSync(descriptor, bytes, at);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(temporary, file);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Whether a record is this tuner's, whatever its other fields are like. */
const isFor = (tuner: Tuner, record: Readonly<Record<string, unknown>>): boolean => {
  const { adapter, driver, subgroupSize } = tuner.export();
  return record.adapter === adapter && record.driver === driver && record.subgroupSize === subgroupSize;
};

function ownChoices(tuner: Tuner, file: string, { adapters }: TuningRecords): readonly TunedChoices[] {
  return adapters.flatMap((record, i) =>
    isFor(tuner, record) ? [parseTunedChoices(record, `${file}: adapters[${i}]`)] : [],
  );
}

/**
 * Gives a tuner its choices out of a file.
 * @returns how many; 0 where there is no file, or nothing in it for this adapter, driver and subgroup size
 * @throws TuningError where the file, or what it has for this adapter, cannot be understood: naming file and field
 */
export function loadTuning(tuner: Tuner, file: string): number {
  return ownChoices(tuner, file, readRecords(file)).reduce((count, choices) => count + tuner.import(choices, file), 0);
}

/**
 * Adds a tuner's choices to a file. The file is read just before, so that what others have written meanwhile stays; its own choices win over those stored.
 * Throws TuningError where the file cannot be understood (then it is left as it is), and the file system's errors.
 */
export function saveTuning(tuner: Tuner, file: string): void {
  const records = readRecords(file);
  const choices = Object.assign(
    {},
    ...ownChoices(tuner, file, records).map((stored) => stored.choices),
    tuner.export().choices,
  ) as TunedChoices['choices'];
  writeRecords(file, {
    ...records,
    adapters: [...records.adapters.filter((record) => !isFor(tuner, record)), { ...tuner.export(), choices }],
  });
}

/**
 * Removes what a file has for a tuner's adapter, of whatever driver version.
 * @returns how many choices
 * @throws TuningError where the file cannot be understood as one of tuned choices
 */
export function resetTuning(tuner: Tuner, file: string): number {
  const records = readRecords(file);
  const kept = records.adapters.filter(({ adapter }) => adapter !== tuner.adapter);
  if (kept.length === records.adapters.length) return 0;
  writeRecords(file, { ...records, adapters: kept });
  const removed = records.adapters.filter((record) => !kept.includes(record));
  return removed.reduce((count, { choices }) => count + (isRecord(choices) ? Object.keys(choices).length : 0), 0);
}
