/** Reverse-mode differentiation: a tape of ops, and one pass over it in reverse topological order. */
import type { EarlierGradients, TapeNode, Tensor, TensorDevice } from './tensor.ts';
import { formatShape, sameShape, ShapeError } from './shape.ts';
import { addInPlace } from './accumulate.ts';

let sequence = 0;

/** Puts a computed tensor on the tape. */
export function addToTape(op: string, inputs: readonly (Tensor | null)[], output: Tensor, vjp: TapeNode['vjp']): void {
  output.node = { op, sequence: sequence++, inputs, output, vjp };
  output.requiresGrad = true;
  output.inGraph = true;
  for (const input of inputs) if (input) input.inGraph = true;
}

/** The ops on the tape that the roots depend on, last first. */
function reverseTopological(roots: readonly TapeNode[]): TapeNode[] {
  const seen = new Set<TapeNode>(roots);
  const stack = [...seen];
  for (let node = stack.pop(); node; node = stack.pop()) {
    for (const input of node.inputs) {
      if (input?.node && !seen.has(input.node)) {
        seen.add(input.node);
        stack.push(input.node);
      }
    }
  }
  return [...seen].sort((a, b) => b.sequence - a.sequence);
}

/**
 * Computes the gradient of `loss` with respect to every parameter that `loss` depends on. Each gradient is added to the
 * parameter's `grad`.
 *
 * @param loss     a scalar, or any tensor if `gradient` is given
 * @param gradient upstream gradient: that of a final scalar with respect to `loss`, with the shape of `loss`; default 1
 * @throws Error if `loss` is not on the tape; ShapeError if `loss` needs a `gradient`, or `gradient` has another shape
 */
export function backward(loss: Tensor, gradient?: Tensor): void {
  const { device } = loss;
  if (!loss.requiresGrad)
    throw new Error(
      'backward: loss: expected a tensor that depends on a parameter, got a constant, or one computed in noGrad',
    );
  if (!gradient && loss.size !== 1)
    throw new ShapeError(`backward: loss: expected a scalar, as no gradient is given, got ${formatShape(loss.shape)}`);
  if (gradient && !sameShape(gradient.shape, loss.shape))
    throw new ShapeError(`backward: gradient: expected ${formatShape(loss.shape)}, got ${formatShape(gradient.shape)}`);
  device.noGrad(() =>
    device.scope(() =>
      propagate([[loss, gradient ? device.alias(gradient, gradient.shape) : device.tensor([1], loss.shape)]]),
    ),
  );
}

/** Gradients that the backward pass has not used yet: one sum per tensor. */
class PendingGradients {
  private readonly sums = new Map<Tensor, Tensor>();

  constructor(private readonly device: TensorDevice) {}

  /** Adds a contribution to a tensor's sum, or to `grad` of a parameter. It takes ownership of the contribution. */
  add(target: Tensor, contribution: Tensor): void {
    if (target.node === null) {
      if (target.grad) addInPlace(target.grad, contribution);
      else target.grad = this.device.keep(contribution.storage.shared ? this.copyOf(contribution) : contribution);
      return;
    }
    const sum = this.sums.get(target);
    if (!sum) this.sums.set(target, contribution);
    else if (!sum.storage.shared) addInPlace(sum, contribution);
    else {
      const own = this.copyOf(sum);
      sum.dispose();
      addInPlace(own, contribution);
      this.sums.set(target, own);
    }
  }

  /** Removes a tensor's sum and returns it; null if there is none. */
  take(target: Tensor): Tensor | null {
    const sum = this.sums.get(target);
    if (!sum) return null;
    this.sums.delete(target);
    return sum;
  }

  private copyOf(tensor: Tensor): Tensor {
    const copy = this.device.empty(tensor.shape, tensor.dtype);
    this.device.copy(tensor, copy);
    return copy;
  }
}

/**
 * Propagates the gradients of some tensors down the tape. The function takes ownership of these gradients.
 * Call it inside a scope. The scope frees intermediate tensors.
 */
function propagate(roots: readonly (readonly [Tensor, Tensor])[]): void {
  const pending = new PendingGradients(roots[0][0].device);
  for (const [root, gradient] of roots) pending.add(root, gradient);
  for (const node of reverseTopological(roots.flatMap(([root]) => (root.node ? [root.node] : [])))) {
    const upstream = pending.take(node.output);
    if (upstream) propagateThrough(node, upstream, pending);
  }
}

/** Turns the gradient of a node's output into contributions to the gradients of its inputs. */
function propagateThrough(node: TapeNode, upstream: Tensor, pending: PendingGradients): void {
  const { device } = upstream;
  const taken: Tensor[] = [];
  const earlier: EarlierGradients = (i) => {
    const input = node.inputs[i];
    const sum = input && pending.take(input);
    if (sum) taken.push(sum);
    return sum;
  };
  const gradients = device.scope(() => {
    // A vjp may return its upstream gradient, even twice. Each result gets its own handle.
    const results = node.vjp(upstream, earlier);
    return results.map((g, i) => (g && (g === upstream || results.indexOf(g) !== i) ? device.alias(g, g.shape) : g));
  });
  upstream.dispose();
  for (const sum of taken) sum.dispose();
  gradients.forEach((contribution, i) => {
    const input = node.inputs[i];
    if (!contribution) return;
    if (!input?.requiresGrad) {
      contribution.dispose();
      return;
    }
    if (!sameShape(contribution.shape, input.shape)) {
      throw new ShapeError(
        `${node.op}: gradient of input ${i}: expected ${formatShape(input.shape)}, ` +
          `got ${formatShape(contribution.shape)}`,
      );
    }
    pending.add(input, contribution);
  });
}

/**
 * Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174):
 * runs `body` without keeping its intermediate tensors, and runs it again in the backward pass.
 * This costs a second forward pass and saves memory. Parameters that `body` uses get their gradients as usual.
 *
 * @param inputs the inputs of `body` besides parameters; gradients flow to these only
 * @param body   computes the same values each time
 */
export function checkpoint<T extends readonly Tensor[]>(
  inputs: readonly Tensor[],
  body: (inputs: readonly Tensor[]) => T,
): T {
  const { device } = inputs[0];
  if (!device.gradEnabled) return body(inputs);
  const outputs = device.rehearse(() => device.scope(() => body(inputs)));
  // All outputs depend on one node, `bundle`, which precedes them on the tape. The backward pass reaches this node
  // after all outputs, so the gradients of all outputs are known then.
  const bundle = device.opScope(() => device.empty([0]));
  const gradients: (Tensor | null)[] = outputs.map(() => null);
  addToTape('checkpoint', inputs, bundle, () => {
    const leaves = inputs.map((input) => {
      const leaf = device.alias(input, input.shape);
      leaf.requiresGrad = input.requiresGrad;
      return leaf;
    });
    device.graphScope(() => {
      const again = device.enableGrad(() => body(leaves));
      const roots = again.flatMap((output, i) => {
        const gradient = gradients[i];
        gradients[i] = null;
        if (gradient && output.requiresGrad) return [[output, gradient] as const];
        gradient?.dispose();
        return [];
      });
      if (roots.length > 0) propagate(roots);
    });
    return leaves.map((leaf) => {
      const gradient = leaf.grad && device.alias(leaf.grad, leaf.shape);
      leaf.zeroGrad();
      return gradient;
    });
  });
  outputs.forEach((output, i) =>
    addToTape('checkpoint', [bundle], output, (gradient) => {
      gradients[i] = device.keep(device.alias(gradient, gradient.shape));
      return [device.empty([0])];
    }),
  );
  return outputs;
}
