/** The ways to take the rows of a tensor, for layer norm and softmax, and which one to take: lanes a row, registers or loops, rows a team. */
import type { Kernel } from '../../kernels/kernel.ts';
import { MAX_SLOTS, type Width } from '../../kernels/norm.ts';
import { teamOf } from '../../kernels/reduce.ts';
import type { TensorDevice } from '../core/tensor.ts';
import { hasLinearOperand, prefersTextures } from './operand-textures.ts';
import { worthMeasuring, type Candidate, type TuningProblem } from '../tuning/problem.ts';
import { roundingOf } from './gemm-variants.ts';

/** Teams of lanes that take rows. */
export interface RowTeams {
  /** Of subgroups of so many lanes; 0: eight lanes that meet in workgroup memory. */
  readonly subgroupSize: number;
  /** Elements (vec4s where rows are made of such) that a lane holds; 0: it loops over memory. */
  readonly slots: number;
  /** Whether a row fills them. */
  readonly full: boolean;
  /** Rows that a team takes in turn. */
  readonly perTeam: number;
  /** Whether rows are read from linear textures. */
  readonly textures: boolean;
}

/** Null: a lane a row. */
export type RowVariant = RowTeams | null;

/** Rows as kernels see them, in elements of `width`. */
export interface Rows {
  readonly rows: number;
  readonly columns: number;
  readonly width: Width;
}

export function rowsOf(count: number, size: number): Rows {
  const width = size % 4 === 0 ? 4 : 1;
  return { rows: size === 0 ? 0 : count / size, columns: size / width, width };
}

/** What an op says of itself where a shape has not been seen before. */
export interface RowProblem<V extends RowVariant> extends Pick<TuningProblem<V>, 'tensors' | 'output' | 'run'> {
  readonly expected: V;
  readonly others: readonly V[];
  readonly plain: V;
  readonly kernels: (variant: V) => readonly Kernel[];
}

/** Values from which on a copy in a texture is expected to pay. */
const WORTH_COPYING = 2 ** 19;

/** Whether rows can be read from textures, and whether that is expected to pay. */
export function rowTextures(
  device: TensorDevice,
  { rows, columns, width }: Rows,
): { readonly possible: boolean; readonly expected: boolean } {
  const possible = width === 4 && device.operandTextures && hasLinearOperand(device, [rows, columns * width]);
  return { possible, expected: possible && prefersTextures(device) && rows * columns * width >= WORTH_COPYING };
}

/** Teams of these lanes, in registers if `held` and where a row fits. */
export function rowTeams(
  { columns }: Rows,
  subgroupSize: number,
  held: boolean,
  perTeam: number,
  textures = false,
): RowTeams {
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

/** Registers from which on loops may be faster: more of them than a lane has would spill. */
const MANY_SLOTS = 5;

/**
 * The other teams that may be faster than the expected ones: of fewer and more rows in turn; of eight lanes where rows leave lanes of a subgroup idle; with loops where many
 * registers would be held; from the other kind of memory if `textures` are possible.
 */
export function otherTeams(rows: Rows, teams: RowTeams, textures: boolean): RowTeams[] {
  const { subgroupSize, slots, perTeam } = teams;
  return [
    { ...teams, perTeam: Math.max(1, perTeam >> 2) },
    { ...teams, perTeam: Math.min(Math.max(1, rows.rows), perTeam * 4) },
    ...(subgroupSize > 0 && rows.columns < subgroupSize ? [rowTeams(rows, 0, slots > 0, perTeam)] : []),
    ...(slots >= MANY_SLOTS ? [rowTeams(rows, subgroupSize, false, perTeam)] : []),
    ...(textures ? [{ ...teams, textures: !teams.textures }] : []),
  ];
}

function nameOf(variant: RowVariant): string {
  if (variant === null) return 'a lane a row';
  const { subgroupSize, slots, perTeam, textures } = variant;
  return `${teamOf(subgroupSize).label} ${slots > 0 ? 'registers' : 'loops'}, ${perTeam} a team${textures ? ', texture' : ''}`;
}

/** The variant for `count` values in rows of `size`: the tuned one, or the op's. What `describe` gives must hold no tensors. */
export function chooseRows<V extends RowVariant>(
  device: TensorDevice,
  family: string,
  count: number,
  size: number,
  describe: (device: TensorDevice, rows: Rows) => RowProblem<V>,
): V {
  return device.tuner.choose(family, `${size === 0 ? 0 : count / size}x${size}`, () =>
    describeRows(count, size, describe(device, rowsOf(count, size))),
  );
}

function describeRows<V extends RowVariant>(
  count: number,
  size: number,
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
