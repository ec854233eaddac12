/**
 * Every op by the name of its public function. The table is derived from the exports of engine/ops/index.ts:
 * an exported function that `opFunction` made is an op. The test cases are typed by `OpName`, so an op without test
 * cases does not compile.
 */
import type { OpInfo } from '../core/op.ts';
import * as families from './index.ts';

type Families = typeof families;

/** Names of the ops. */
export type OpName = { [Name in keyof Families]: Families[Name] extends OpInfo ? Name : never }[keyof Families];

const isOp = (entry: [string, unknown]): entry is [OpName, OpInfo] =>
  typeof entry[1] === 'function' && 'opName' in entry[1];

/** Name and differentiability of every op. */
export const ops = Object.fromEntries(Object.entries<unknown>(families).filter(isOp)) as Readonly<
  Record<OpName, OpInfo>
>;
