/** The `convert` command: writes a data set in another format, without loss. */
import { InputError } from '../core/errors.ts';
import { CONVERSION_FILE, type Conversion } from '../data/conversion.ts';
import { convertDataset, WRITERS, type ConvertedDataset } from '../data/convert.ts';
import type { DataWriter } from '../data/data-writer.ts';
import { FORMAT_KEYS, FORMAT_NAMES } from '../data/index.ts';
import { MAX_SHOWN_CASES } from '../data/warnings.ts';
import { CountProgress } from '../output/count-progress.ts';
import { formatTable } from '../output/table.ts';
import { parseArguments } from './arguments.ts';
import { onInterrupt } from './interrupt.ts';

const HELP = `convert: writes a data set in another format

  npm run convert -- --data DIR --to ${[...WRITERS.keys()].join('|')} --out DIR

  --data DIR       a data set in ${FORMAT_NAMES} format
  --to FORMAT      ${[...WRITERS.keys()].join(', ')}
  --out DIR        a new or empty folder; it appears when the conversion is complete
  --layout LAYOUT  only for coco: standard (annotations/instances_train.json; the default)
                   or roboflow (train/_annotations.coco.json)
  --copy           copy the images; default: hard links, which share the bytes on the disk, where the disk can link
  --format FORMAT  for folders that fit several formats: ${FORMAT_KEYS}
  --help           print this text

Boxes, classes, splits, names and ids stay exactly the same. What the files of a format cannot hold is in
${CONVERSION_FILE}, which train, evaluate, check and convert read; the command prints what other tools do not see.
After writing, the result is read back and compared with the source.
`;

/** Runs the command. Resolves to the exit code; rejects with InputError on bad arguments or data. */
export async function runConvert(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('convert', argv, {
    data: { type: 'string' },
    to: { type: 'string' },
    out: { type: 'string' },
    layout: { type: 'string' },
    format: { type: 'string' },
    copy: { type: 'boolean' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { data, to, out, layout, format = null, copy = false } = values;
  if (data === undefined) throw new InputError('convert: --data: expected the folder of a data set, got nothing');
  const writer = writerOf(to, layout);
  if (out === undefined) throw new InputError('convert: --out: expected a new or empty folder, got nothing');
  const progress = new CountProgress();
  const stopping = new AbortController();
  const interrupt = onInterrupt('removing what is written', () => stopping.abort());
  try {
    const result = await convertDataset({
      data,
      format,
      writer,
      out,
      copy,
      progress: (task, done, total) => progress.update(task, done, total),
      signal: stopping.signal,
    });
    progress.end();
    report(result, out);
    return 0;
  } catch (error) {
    if (!stopping.signal.aborted) throw error;
    progress.end();
    console.log(`stopped   nothing was written to ${out}`);
    return 130;
  } finally {
    progress.end();
    interrupt.release();
  }
}

function writerOf(to: string | undefined, layout: string | undefined): DataWriter {
  const layouts = WRITERS.get(to ?? '');
  if (layouts === undefined) {
    const got = to === undefined ? 'nothing' : JSON.stringify(to);
    throw new InputError(`convert: --to: expected one of ${[...WRITERS.keys()].join(', ')}, got ${got}`);
  }
  const writer = layouts.get(layout ?? 'standard');
  if (writer === undefined)
    throw new InputError(
      `convert: --layout: expected one of ${[...layouts.keys()].join(', ')} for ${to}, got ${JSON.stringify(layout)}`,
    );
  return writer;
}

function report({ source, splits, linked, copied, renamed, conversion }: ConvertedDataset, out: string): void {
  console.log(`format    ${source.recognized}`);
  for (const note of source.notes) console.log(`note      ${note}`);
  for (const line of source.warnings) console.log(`warning   ${line}`);
  if (source.format.key === 'coco')
    console.log('note      masks, keypoints and other fields of COCO files are not converted; boxes and areas are');
  if (renamed.length > 0) {
    console.log(`renamed   ${renamed.length} images, because the format cannot hold their names, or others have them:`);
    for (const line of shortened(renamed)) console.log(`          ${line}`);
  }
  const unseen = conversion === null ? [] : unseenByOthers(conversion);
  if (unseen.length > 0) {
    console.log(`note      only ${CONVERSION_FILE} has what follows, so other tools do not see it:`);
    for (const line of unseen) console.log(`          ${line}`);
  }
  const rows = [...splits].map(([split, records]) => {
    const objects = records.flatMap((record) => record.objects);
    return [split, records.length, objects.length, objects.filter(({ crowd }) => crowd).length];
  });
  console.log(formatTable(['split', 'images', 'objects', 'crowds'], rows));
  const images = [linked > 0 ? `${linked} images linked` : '', copied > 0 ? `${copied} images copied` : ''];
  console.log(
    `wrote     ${out}: ${images.filter((text) => text !== '').join(', ')}; read back: the same as the source`,
  );
}

/** The content of conversion.json in words, with counts. */
function unseenByOthers({ classes, splits = [], images }: Conversion): string[] {
  const count = (has: (image: Conversion['images'][number]) => unknown) => images.filter((image) => has(image)).length;
  const hidden = images.reduce((sum, image) => sum + (image.hidden?.length ?? 0), 0);
  const entries: [number, string][] = [
    [hidden, 'crowds or difficult objects, which are not in the label files'],
    [count(({ name }) => name), 'images with another name'],
    [count(({ id }) => id !== undefined), 'images with another id'],
    [count(({ ids }) => ids), 'images with other ids of objects'],
    [count(({ areas }) => areas), 'images with areas of masks, which are smaller than their boxes'],
    [count(({ boxes }) => boxes), 'images with boxes whose last digits the format rounds'],
  ];
  return [
    ...(classes === undefined ? [] : [`order, ids or names of the ${classes.length} classes`]),
    ...splits.map(({ name, files }) => `the split "${name}" of ${files.length} images, which are in other splits too`),
    ...entries.filter(([number]) => number > 0).map(([number, text]) => `${number} ${text}`),
  ];
}

function shortened(lines: readonly string[]): string[] {
  const more = lines.length > MAX_SHOWN_CASES ? [`... and ${lines.length - MAX_SHOWN_CASES} more`] : [];
  return [...lines.slice(0, MAX_SHOWN_CASES), ...more];
}
