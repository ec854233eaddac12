/** Tables as plain text for the terminal. */

const isNumeric = (cell: string | number): boolean => typeof cell === 'number' || /^(-|[-+]?[\d.]+%?)$/.test(cell);

/**
 * A table as plain text. Columns are two spaces apart. Columns of numbers are aligned to the right, all others to the
 * left; "-" counts as a number. Throws where a row has another number of cells than the header.
 */
export function formatTable(header: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  rows.forEach((row, index) => {
    if (row.length !== header.length)
      throw new Error(`formatTable: rows[${index}]: expected ${header.length} cells, got ${row.length}`);
  });
  const toRight = header.map((_, column) => rows.length > 0 && rows.every((row) => isNumeric(row[column])));
  const widths = header.map((name, column) => Math.max(name.length, ...rows.map((row) => String(row[column]).length)));
  const formatRow = (cells: readonly (string | number)[]) =>
    cells
      .map((cell, column) =>
        toRight[column] ? String(cell).padStart(widths[column]) : String(cell).padEnd(widths[column]),
      )
      .join('  ')
      .trimEnd();
  return [formatRow(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(formatRow)].join('\n');
}
