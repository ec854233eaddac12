/** Fits the proposals of a checkpoint to a model with another number of proposals. */
import type { CheckpointTensor } from '../engine/index.ts';
import type { Found } from './checkpoint-stem.ts';
import { gridCenters } from './proposals.ts';

/** The tensors that have values of each proposal, and the axis before the proposals: experts. */
const BY_PROPOSAL = [
  'proposals.boxes',
  'proposals.features',
  'proposals.weights.linear2.weight',
  'proposals.weights.linear2.bias',
];

/**
 * For each proposal of the model, takes the values of a proposal of the file: the one at the nearest place if both are
 * laid out on grids of the image. Its box moves by the distance of the two places, so that no two proposals are equal.
 * Nothing happens if the number is the same, or if the numbers of experts differ.
 * @param found    tensors by our names; changed in place
 * @param expected the model's names and shapes
 * @returns a sentence for the user; null if nothing was done
 */
export function resampleProposals(found: Found, expected: ReadonlyMap<string, readonly number[]>): string | null {
  const boxes = found.get('proposals.boxes')?.tensor.shape;
  const wanted = expected.get('proposals.boxes');
  if (!boxes || !wanted || boxes.length !== 3 || boxes[1] === wanted[1] || boxes[0] !== wanted[0]) return null;
  const [experts, from] = boxes;
  const to = wanted[1];
  const [sources, targets] = [gridCenters(from), gridCenters(to)];
  const chosen = targets.map(([x, y]) => {
    const distances = sources.map(([u, v]) => (x - u) ** 2 + (y - v) ** 2);
    return distances.indexOf(Math.min(...distances));
  });
  for (const name of BY_PROPOSAL) {
    const match = found.get(name);
    if (match === undefined || match.tensor.data.length % (experts * from) !== 0) continue;
    const tensor = chosenRows(match.tensor, experts, chosen, from);
    if (name === 'proposals.boxes')
      for (let e = 0; e < experts; e++)
        chosen.forEach((source, i) => {
          const at = (e * to + i) * 4;
          tensor.data[at] += targets[i][0] - sources[source][0];
          tensor.data[at + 1] += targets[i][1] - sources[source][1];
        });
    found.set(name, { from: match.from, tensor });
  }
  return `the file has ${from} proposals, the model ${to}: each starts from the nearest one of the file`;
}

/** Rows of a tensor [E, N, ...] or [E * N, ...], for each expert in the order of `chosen`. */
function chosenRows(
  { shape, data }: CheckpointTensor,
  experts: number,
  chosen: readonly number[],
  from: number,
): CheckpointTensor {
  const row = data.length / (experts * from);
  const rows = new Float32Array(experts * chosen.length * row);
  for (let e = 0; e < experts; e++)
    chosen.forEach((source, i) => {
      const start = (e * from + source) * row;
      rows.set(data.subarray(start, start + row), (e * chosen.length + i) * row);
    });
  const isFlat = shape[0] === experts * from;
  const resized = isFlat ? [experts * chosen.length, ...shape.slice(1)] : [experts, chosen.length, ...shape.slice(2)];
  return { shape: resized, data: rows };
}
