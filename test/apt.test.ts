/** Installing lavapipe with apt: the package's source, and the mirror of backports. No test changes this machine. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { lavapipeHint, mesaSource, parseOsRelease } from '../training/setup/apt.mjs';
import {
  backportsEntries,
  parseDeb822Sources,
  parseOneLineSources,
  readAptSources,
} from '../training/setup/apt-sources.mjs';

/** The text of a file with these lines. */
const text = (...lines: string[]): string => `${lines.join('\n')}\n`;

describe('where lavapipe comes from', () => {
  const policy = (candidate: string): string =>
    `mesa-vulkan-drivers:\n  Installed: (none)\n  Candidate: ${candidate}\n  Version table:\n`;
  const bookworm = parseOsRelease(
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n',
  );
  const ubuntu = parseOsRelease("NAME='Ubuntu'\n# a comment\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=jammy\n");

  test('reads /etc/os-release with and without quotes', () => {
    expect(bookworm).toEqual({
      PRETTY_NAME: 'Debian GNU/Linux 12 (bookworm)',
      VERSION_ID: '12',
      VERSION_CODENAME: 'bookworm',
      ID: 'debian',
    });
    expect(ubuntu.NAME).toBe('Ubuntu');
  });

  test.each([
    ['Debian 12', bookworm, '22.3.6-1+deb12u2', 'backports'],
    ['Debian 12 without package lists', bookworm, '(none)', 'backports'],
    ['Debian 12 with pinned backports', bookworm, '25.0.7-2~bpo12+1', 'release'],
    ['Debian 13', { ID: 'debian', VERSION_CODENAME: 'trixie' }, '25.0.7-2', 'release'],
    ['Debian 11', { ID: 'debian', VERSION_CODENAME: 'bullseye' }, '20.3.5-1', null],
    ['Ubuntu 22.04', ubuntu, '23.2.1-1ubuntu3.1~22.04.3', 'release'],
    ['Ubuntu 20.04', ubuntu, '21.2.6-0ubuntu0.1~20.04.2', null],
    ['a version with an epoch', ubuntu, '1:24.0.0', 'release'],
  ])('%s', (_, osRelease, candidate, source) => {
    expect(mesaSource(osRelease, policy(candidate))).toBe(source);
  });

  test('the hint names backports on Debian 12 only, and the mirror of this machine', () => {
    const sources = parseOneLineSources(text('deb http://mirror.local/debian bookworm main'));
    expect(lavapipeHint(bookworm, sources)).toBe(
      "printf '%s\\n' 'deb http://mirror.local/debian bookworm-backports main' " +
        '| sudo tee /etc/apt/sources.list.d/dynamic-sparse-rcnn-backports.list && sudo apt-get update && ' +
        'sudo apt-get install -t bookworm-backports mesa-vulkan-drivers libvulkan1 && npm run setup -- --driver auto',
    );
    const stanza = parseDeb822Sources(
      text('Types: deb', "URIs: http://mirror.local/o'brien", 'Suites: bookworm', 'Components: main'),
    );
    expect(lavapipeHint(bookworm, stanza)).toContain(
      "printf '%s\\n' 'Types: deb' 'URIs: http://mirror.local/o'\\''brien' 'Suites: bookworm-backports' " +
        "'Components: main' " +
        '| sudo tee /etc/apt/sources.list.d/dynamic-sparse-rcnn-backports.sources && ',
    );
    expect(lavapipeHint(bookworm, [])).toContain(
      "add the suite bookworm-backports to apt's sources, then sudo apt-get",
    );
    expect(lavapipeHint(bookworm, [])).toContain('-t bookworm-backports mesa-vulkan-drivers');
    expect(lavapipeHint(ubuntu, sources)).not.toContain('backports');
    expect(lavapipeHint({ ID: 'fedora' }, sources)).not.toContain('apt');
  });
});

describe("apt's sources", () => {
  const KEY = 'Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----';

  test('one-line sources are read with options and comments, without disabled sources and source packages', () => {
    const sources = parseOneLineSources(
      text(
        '# deb http://disabled/debian bookworm main',
        '  deb http://plain/debian/ bookworm main contrib  # the whole of it',
        'deb [ arch=amd64 signed-by=/usr/share/keyrings/a.gpg ] https://signed/debian bookworm main',
        'deb [trusted=yes] mirror+file:/etc/apt/mirrors.list bookworm main',
        'deb-src http://plain/debian bookworm main',
        'deb http://flat/debian ./',
        'debris',
        '',
      ),
    );
    const list = { format: 'list', suites: ['bookworm'], components: ['main'], options: '' };
    expect(sources).toEqual([
      { ...list, uris: ['http://plain/debian/'], components: ['main', 'contrib'] },
      { ...list, uris: ['https://signed/debian'], options: '[ arch=amd64 signed-by=/usr/share/keyrings/a.gpg ]' },
      { ...list, uris: ['mirror+file:/etc/apt/mirrors.list'], options: '[trusted=yes]' },
      { ...list, uris: ['http://flat/debian'], suites: ['./'], components: [] },
    ]);
  });

  test('stanzas are read with several values, comments and keys, without disabled sources and source packages', () => {
    const sources = parseDeb822Sources(
      text(
        '# the archive',
        'Types: deb deb-src',
        '# URIs: http://commented/debian',
        'URIs: http://first/debian',
        '  http://second/debian',
        'Suites: bookworm bookworm-updates',
        'components: main contrib',
        KEY,
        'Architectures: amd64',
        '',
        '',
        'Enabled: no',
        'Types: deb',
        'URIs: http://disabled/debian',
        'Suites: bookworm',
        'Components: main',
        ' ',
        'Types: deb-src',
        'URIs: http://code/debian',
        'Suites: bookworm',
        'Components: main',
        '',
        'Enabled: yes',
        'Types: deb',
        'URIs: http://security/debian',
        'Suites: bookworm-security',
        'Components: main',
        'Signed-By: /a.gpg',
      ),
    );
    expect(sources).toEqual([
      {
        format: 'sources',
        uris: ['http://first/debian', 'http://second/debian'],
        suites: ['bookworm', 'bookworm-updates'],
        components: ['main', 'contrib'],
        options: `${KEY}\nArchitectures: amd64`,
      },
      {
        format: 'sources',
        uris: ['http://security/debian'],
        suites: ['bookworm-security'],
        components: ['main'],
        options: 'Signed-By: /a.gpg',
      },
    ]);
  });

  test('backports come from the mirrors of the release, with their options; mirrors of Debian come first', () => {
    const sources = [
      ...parseOneLineSources(
        text(
          'deb https://packages.other.com/debian/12 bookworm main',
          'deb cdrom:[Debian 12]/ bookworm main',
          'deb cdrom:disc bookworm main',
          'deb http://mirror.local/debian-security bookworm-security main',
          'deb [signed-by=/a.gpg] http://mirror.local/debian/ bookworm main',
          'deb [signed-by=/a.gpg] http://mirror.local/debian bookworm-updates main',
          'deb http://mirror.local/debian bookworm contrib',
          'deb http://mirror.local/debian trixie main',
        ),
      ),
      ...parseDeb822Sources(
        text(
          'Types: deb',
          'URIs: http://m1/debian http://m2/debian',
          'Suites: bookworm bookworm-updates',
          'Components: main',
          KEY,
        ),
      ),
    ];
    const stanza = (uri: string): string =>
      text('Types: deb', `URIs: ${uri}`, 'Suites: bookworm-backports', 'Components: main', KEY);
    expect(backportsEntries(sources, 'bookworm')).toEqual([
      { extension: 'list', text: 'deb [signed-by=/a.gpg] http://mirror.local/debian/ bookworm-backports main\n' },
      { extension: 'sources', text: stanza('http://m1/debian') },
      { extension: 'sources', text: stanza('http://m2/debian') },
      { extension: 'list', text: 'deb https://packages.other.com/debian/12 bookworm-backports main\n' },
    ]);
    expect(backportsEntries([], 'bookworm')).toEqual([]);
  });

  test('an entry is read as the source that it was written for', () => {
    const [source] = parseDeb822Sources(
      text('Types: deb', 'URIs: http://m1/debian', 'Suites: bookworm', 'Components: main', KEY),
    );
    const [entry] = backportsEntries([source], 'bookworm');
    expect(parseDeb822Sources(entry.text)).toEqual([{ ...source, suites: ['bookworm-backports'] }]);
  });

  test('are read from all files of the folder except our own', () => {
    const folder = mkdtempSync(join(tmpdir(), 'apt-'));
    try {
      expect(readAptSources(folder)).toEqual([]);
      mkdirSync(join(folder, 'sources.list.d'));
      const files = {
        'sources.list': text('deb http://a/debian bookworm main'),
        'sources.list.d/b.list': text('deb http://b/debian bookworm main'),
        'sources.list.d/c.sources': text('Types: deb', 'URIs: http://c/debian', 'Suites: bookworm', 'Components: main'),
        'sources.list.d/d.list.disabled': text('deb http://d/debian bookworm main'),
        'sources.list.d/dynamic-sparse-rcnn-backports.list': text('deb http://e/debian bookworm main'),
      };
      for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
      expect(readAptSources(folder).flatMap(({ uris }) => uris)).toEqual([
        'http://a/debian',
        'http://b/debian',
        'http://c/debian',
      ]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
