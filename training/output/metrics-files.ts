/** Files of one JSON object per line: metrics.jsonl, with the steps, and evaluations.jsonl, with the evaluations. */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import type { CocoMetrics } from '../core/coco-metrics.ts';
import { InputError } from '../core/errors.ts';
import type { StepMetrics } from '../core/metrics-log.ts';
import { writeFileAtomic } from '../data/files.ts';

/** One line of evaluations.jsonl: COCO's numbers on the validation split at an iteration. */
export type EvaluationLine = CocoMetrics & { readonly iteration: number };

/** Adds a line to a file. */
export function appendLine(file: string, line: StepMetrics | EvaluationLine): void {
  appendFileSync(file, `${JSON.stringify(line)}\n`);
}

/**
 * Reads a file of one JSON object per line. A last line that an interruption cut short is ignored.
 * @throws InputError naming the line that is not JSON
 */
function readLines<T>(file: string): T[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
  return lines.flatMap((line, i) => {
    try {
      return [JSON.parse(line) as T];
    } catch (error) {
      if (i === lines.length - 1) return [];
      throw new InputError(`${file}: line ${i + 1}: expected JSON, got ${(error as Error).message}`);
    }
  });
}

/** Reads metrics.jsonl. */
export function readMetrics(file: string): StepMetrics[] {
  return readLines<StepMetrics>(file);
}

/** Reads evaluations.jsonl. */
export function readEvaluations(file: string): EvaluationLine[] {
  return readLines<EvaluationLine>(file);
}

/** Drops the lines after an iteration: a resumed training repeats the steps after its checkpoint. */
export function keepLinesUntil(file: string, iteration: number): void {
  const kept = readLines<{ iteration: number }>(file).filter((line) => line.iteration <= iteration);
  writeFileAtomic(file, kept.map((line) => `${JSON.stringify(line)}\n`).join(''));
}
