/**
 * The variants for the rows of layer norm and softmax, and the choice among them: lanes per row, registers or loops,
 * rows per team.
 */
import type { Kernel } from '../../kernels/kernel.ts';
import { MAX_SLOTS, teamOf, widthOf, type Width } from '../../kernels/teams.ts';
import { hasLinearOperand, prefersTextures } from './operand-textures.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './rounding.ts';

/** Teams of lanes that handle rows. */
export interface RowTeams {
  /** Lanes per subgroup; 0: teams of eight lanes that exchange values in workgroup memory. */
  readonly subgroupSize: number;
  /** Elements (vec4s where row lengths allow) that a lane holds in registers; 0: it loops over memory. */
  readonly slots: number;
  /** Whether a row fills all registers of all lanes. */
  readonly full: boolean;
  /** Rows that a team handles in turn. */
  readonly perTeam: number;
  /** Whether rows are read from linear textures. */
  readonly textures: boolean;
}

/** Null: one invocation per row. */
export type RowVariant = RowTeams | null;

/** Rows as kernels see them; `columns` counts elements of `width` values. */
export interface Rows {
  readonly rows: number;
  readonly columns: number;
  readonly width: Width;
}

/** `count` values as rows of `size` values. */
export function rowsOf(count: number, size: number): Rows {
  const width = widthOf(size);
  return { rows: size === 0 ? 0 : count / size, columns: size / width, width };
}

/** Describes a shape class to the tuner. */
export interface RowProblem<V extends RowVariant> extends Pick<TuningProblem<V>, 'tensors' | 'output' | 'run'> {
  readonly expected: V;
  readonly others: readonly V[];
  readonly plain: V;
  readonly kernels: (variant: V) => readonly Kernel[];
}

/** Minimum number of values for which a copy in a texture is expected to pay off. */
const MIN_WORTH_COPYING = 2 ** 19;

/** Whether rows can be read from textures, and whether that is expected to pay off. */
export function rowTextures(
  device: TensorDevice,
  { rows, columns, width }: Rows,
): { readonly possible: boolean; readonly expected: boolean } {
  const possible = width === 4 && device.operandTextures && hasLinearOperand(device, [rows, columns * width]);
  return { possible, expected: possible && prefersTextures(device) && rows * columns * width >= MIN_WORTH_COPYING };
}

interface TeamOptions {
  readonly subgroupSize: number;
  /** Holds rows in registers where they fit. */
  readonly held: boolean;
  readonly perTeam: number;
  /** Default: false. */
  readonly textures?: boolean;
}

/** Teams for these rows. */
export function rowTeams({ columns }: Rows, { subgroupSize, held, perTeam, textures = false }: TeamOptions): RowTeams {
  const { lanes } = teamOf(subgroupSize);
  const slots = Math.ceil(columns / lanes);
  const inRegisters = held && slots <= MAX_SLOTS;
  return {
    subgroupSize,
    slots: inRegisters ? slots : 0,
    full: inRegisters && columns === slots * lanes,
    perTeam,
    textures,
  };
}

/** Minimum registers per lane for which loops may be faster: registers beyond those of a lane are spilled to memory. */
const MANY_SLOTS = 5;

/**
 * Teams that may be faster than the expected ones:
 * - fewer and more rows per team;
 * - eight lanes, where a row leaves lanes of a subgroup idle;
 * - loops, where many registers would be used;
 * - the other kind of memory, if `textures` are possible.
 */
export function otherTeams(rows: Rows, teams: RowTeams, textures: boolean): RowTeams[] {
  const { subgroupSize, slots, perTeam } = teams;
  return [
    { ...teams, perTeam: Math.max(1, perTeam >> 2) },
    { ...teams, perTeam: Math.min(Math.max(1, rows.rows), perTeam * 4) },
    ...(subgroupSize > 0 && rows.columns < subgroupSize
      ? [rowTeams(rows, { subgroupSize: 0, held: slots > 0, perTeam })]
      : []),
    ...(slots >= MANY_SLOTS ? [rowTeams(rows, { subgroupSize, held: false, perTeam })] : []),
    ...(textures ? [{ ...teams, textures: !teams.textures }] : []),
  ];
}

function nameOf(variant: RowVariant): string {
  if (variant === null) return 'a lane per row';
  const { subgroupSize, slots, perTeam, textures } = variant;
  const memory = `${slots > 0 ? 'registers' : 'loops'}, ${perTeam} per team${textures ? ', texture' : ''}`;
  return `${teamOf(subgroupSize).label} ${memory}`;
}

/** The rows of a tensor. */
export interface RowSizes {
  /** Values of the tensor. */
  readonly count: number;
  /** Values per row. */
  readonly size: number;
}

/** The tuned or the expected variant for rows. The result of `describe` must not hold tensors. */
export function chooseRows<V extends RowVariant>(
  device: TensorDevice,
  family: string,
  { count, size }: RowSizes,
  describe: (device: TensorDevice, rows: Rows) => RowProblem<V>,
): V {
  return device.tuner.choose(family, `${size === 0 ? 0 : count / size}x${size}`, () =>
    describeRows({ count, size }, describe(device, rowsOf(count, size))),
  );
}

function describeRows<V extends RowVariant>(
  { count, size }: RowSizes,
  { expected, others, plain, kernels, tensors, output, run }: RowProblem<V>,
): TuningProblem<V> {
  const candidate = (variant: V): Candidate<V> => ({
    name: nameOf(variant),
    variant,
    tolerance: roundingOf(size),
    kernels: () => kernels(variant),
  });
  return {
    expected: candidate(expected),
    candidates: worthMeasuring(2 * count) ? others.map(candidate) : [],
    plain,
    tensors,
    output,
    run,
  };
}
