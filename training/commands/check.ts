/** The `check` command: checks a data set and shows what is wrong with it. */
import { join, resolve } from 'node:path';
import { InputError } from '../core/errors.ts';
import { fitToData } from '../core/fit-to-data.ts';
import { PRESET_NAMES } from '../core/recipe.ts';
import { checkDataset, type CheckedDataset, type SurveyedDataset } from '../data/check.ts';
import { loadConfig } from '../data/config-file.ts';
import { writeFileAtomic, writeJson } from '../data/files.ts';
import { FORMAT_KEYS, FORMAT_NAMES, openDataset } from '../data/index.ts';
import { CountProgress } from '../output/count-progress.ts';
import { checkJson, checkReport } from '../output/findings-table.ts';
import { drawCheckPage } from '../pictures/check-page.ts';
import { outputFolder, parseArguments } from './arguments.ts';
import { surveyWithProgress } from './survey.ts';

const HELP = `check: checks a data set: opens every image, and looks at boxes and classes

  npm run check -- --data DIR [--out DIR] [--json FILE] [--split NAME] [--strict]

  --data DIR       a data set: ${FORMAT_NAMES}
  --out DIR        folder for check.html, a page with drawn samples, the worst first, and for check.json
  --json FILE      writes all findings with all their cases to this file
  --split NAME     checks one split only; may be repeated (default: all splits)
  --strict         damaged and unreadable images, wrong sizes and wrong forms of boxes are errors
  --config C       a preset (${PRESET_NAMES.join(', ')}) or a JSON file. Boxes that become tiny at its
                   image size are named (default: small)
  --format FORMAT  for folders that fit several formats: ${FORMAT_KEYS}
  --help           print this text

Results about images are kept in the user's cache folder: the next check, and the short check before a training, open
only images that have changed. Exits with 0 if a training can use the data, also with warnings; with 2 otherwise.
Developers who want the linter: npm run lint
`;

/** Runs the command. Resolves to the exit code; rejects with InputError on bad arguments or annotations. */
export async function runCheck(argv: readonly string[]): Promise<number> {
  const { values } = parseArguments('check', argv, {
    data: { type: 'string' },
    out: { type: 'string' },
    json: { type: 'string' },
    split: { type: 'string', multiple: true },
    config: { type: 'string', default: 'small' },
    format: { type: 'string' },
    strict: { type: 'boolean' },
    help: { type: 'boolean' },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const { data, out, json, split, config, format, strict = false } = values;
  if (data === undefined) {
    process.stderr.write(HELP);
    throw new InputError('check: --data: expected the folder of a data set, got nothing; developers: npm run lint');
  }
  if (out !== undefined) outputFolder('check', out);
  const loaded = loadConfig({ config, set: [] });
  const surveyed = await survey(data, split, format);
  const { dataset } = surveyed;
  const records = Object.values(dataset.splits).flat();
  // Without an image, there is nothing to fit.
  const fitted = records.length > 0 ? fitToData(loaded, records, dataset.classNames).config : loaded.config;
  const checked = checkDataset(surveyed, { resize: fitted.training.evaluationResize, strict });
  const usable = checked.findings.every(({ severity }) => severity !== 'error');
  report(checked);
  const content = checkJson(checked, usable);
  const written: string[] = [];
  if (json !== undefined) {
    writeJson(resolve(json), content);
    written.push(json);
  }
  if (out !== undefined) {
    const [jsonFile, page] = [join(out, 'check.json'), join(out, 'check.html')];
    writeJson(jsonFile, content);
    writeFileAtomic(page, await drawCheckPage(checked));
    written.push(jsonFile, page);
  }
  console.log('');
  if (written.length > 0) console.log(`wrote ${written.join(' and ')}`);
  const verdict = usable ? 'a training can use this data' : 'a training cannot use this data: see the errors above';
  console.log(strict && !usable ? 'this data is refused: see the errors above (--strict)' : verdict);
  return usable ? 0 : 2;
}

/** Opens the data set and its images, with progress. */
async function survey(
  data: string,
  splits: readonly string[] | undefined,
  format: string | undefined,
): Promise<SurveyedDataset> {
  const chosen = format === undefined ? {} : { format };
  const progress = new CountProgress();
  try {
    const opened = await openDataset(data, {
      ...chosen,
      ...(splits ? { splits } : {}),
      progress: (done, total) => progress.update('image sizes read', done, total),
    });
    progress.end();
    return await surveyWithProgress(opened, splits && (() => openDataset(data, chosen)));
  } finally {
    progress.end();
  }
}

function report(checked: CheckedDataset): void {
  const { dataset, problem } = checked;
  console.log(`data      ${dataset.root}`);
  console.log(`format    ${dataset.recognized}`);
  for (const note of dataset.notes) console.log(`note      ${note}`);
  if (problem !== null) console.log(`cache     ${problem}`);
  console.log(`\n${checkReport(checked)}`);
}
