/**
 * Tuned choices (tuner.ts) on disk: one JSON file for all adapters. A write replaces the whole file, or changes
 * nothing.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { errorMessage } from '../core/errors.ts';
import { isObject } from '../core/json.ts';
import { parseTunedChoices, TUNING_VERSION, TuningError, type TunedChoices } from '../tuning/choices.ts';
import type { Tuner } from '../tuning/tuner.ts';
import { check, objectMessage, readJson } from './json-file.mjs';
import { userCacheFolder } from './user-cache.ts';

/**
 * One record for each adapter, driver and subgroup size. Records of other adapters are kept unchanged, valid or not.
 */
const recordFields = { adapter: v.string('text'), driver: v.string('text') };
const recordSchema = v.looseObject(recordFields, objectMessage(recordFields));
const fileFields = {
  version: v.literal(TUNING_VERSION, `${TUNING_VERSION}`),
  adapters: v.array(recordSchema, 'a list'),
};
const fileSchema = v.object(fileFields, objectMessage(fileFields));
type TuningRecord = v.InferOutput<typeof recordSchema>;
type TuningRecords = v.InferOutput<typeof fileSchema>;

const REPAIR = 'delete it, or name another with DSRCNN_TUNING';

/**
 * The file to use: `tuning`, otherwise the file that DSRCNN_TUNING names, otherwise tuning.json in the user's cache
 * folder. Null for `off`.
 */
export function tuningFile(tuning?: string, environment: NodeJS.ProcessEnv = process.env): string | null {
  const named = tuning ?? (environment.DSRCNN_TUNING || undefined);
  if (named === 'off') return null;
  return path.resolve(named ?? path.join(userCacheFolder(environment), 'tuning.json'));
}

function readRecords(file: string): TuningRecords {
  if (!existsSync(file)) return { version: TUNING_VERSION, adapters: [] };
  try {
    return check(fileSchema, readJson(file), file);
  } catch (error) {
    throw new TuningError(`${errorMessage(error)}: ${REPAIR}`);
  }
}

/** Writes a temporary file in the same folder and renames it. */
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

/** Whether a record belongs to this tuner. The record's other fields may be invalid. */
const isFor = (tuner: Tuner, record: TuningRecord): boolean => {
  const { adapter, driver, subgroupSize } = tuner.export();
  return record.adapter === adapter && record.driver === driver && record.subgroupSize === subgroupSize;
};

/** The choices of the records that belong to a tuner. */
function ownChoices(tuner: Tuner, file: string, { adapters }: TuningRecords): readonly TunedChoices[] {
  return adapters.flatMap((record, i) =>
    isFor(tuner, record) ? [parseTunedChoices(record, `${file}: adapters[${i}]`)] : [],
  );
}

/**
 * Gives a tuner its choices from a file.
 * @returns the number of choices; 0 if there is no file, or no choice for this adapter, driver and subgroup size
 * @throws TuningError with file and field, if the file or its record for this adapter is invalid
 */
export function loadTuning(tuner: Tuner, file: string): number {
  return ownChoices(tuner, file, readRecords(file)).reduce((count, choices) => count + tuner.import(choices, file), 0);
}

/**
 * Adds a tuner's choices to a file. The function reads the file just before writing it, so that choices of other
 * programs stay. The tuner's own choices replace stored ones.
 * @throws TuningError if the file is invalid; the file then stays unchanged. Errors of the file system are thrown too
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
 * Removes the choices for a tuner's adapter, of all driver versions.
 * @returns the number of removed choices
 * @throws TuningError if the file is invalid
 */
export function resetTuning(tuner: Tuner, file: string): number {
  const records = readRecords(file);
  const kept = records.adapters.filter(({ adapter }) => adapter !== tuner.adapter);
  if (kept.length === records.adapters.length) return 0;
  writeRecords(file, { ...records, adapters: kept });
  const removed = records.adapters.filter((record) => !kept.includes(record));
  return removed.reduce((count, { choices }) => count + (isObject(choices) ? Object.keys(choices).length : 0), 0);
}
