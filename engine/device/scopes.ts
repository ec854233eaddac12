/** Scopes: when a scope ends, it frees the tensors made in it. */
import { tensorsIn, type Tensor } from '../core/tensor.ts';

/**
 * What a scope does with tensors of a graph that its body neither returns nor keeps.
 * `hand over`: they go to the outer scope; without an outer scope they are freed. `spare`: as `hand over`, but without
 * an outer scope they stay. `free`: they are freed.
 */
export type GraphTensors = 'hand over' | 'spare' | 'free';

/** The open scopes of a device, innermost last. */
export class ScopeStack {
  private readonly scopes: Set<Tensor>[] = [];

  /**
   * @param onEnter        called before each scope
   * @param onOutermostEnd called after each outermost scope, except those that spare graphs
   */
  constructor(
    private readonly onEnter: () => void,
    private readonly onOutermostEnd: () => void,
  ) {}

  /** Runs `body` in a new scope, then frees the tensors made in it that are not returned, kept, or part of a graph. */
  run<T>(body: () => T, graph: GraphTensors): T {
    const scope = new Set<Tensor>();
    this.onEnter();
    this.scopes.push(scope);
    let result: T | undefined;
    try {
      result = body();
      return result;
    } finally {
      this.scopes.pop();
      const outer = this.scopes.at(-1);
      const returned = tensorsIn(result);
      for (const tensor of scope) {
        const survives = tensor.inGraph && (graph === 'spare' || (graph === 'hand over' && outer !== undefined));
        if (returned.has(tensor) || survives) outer?.add(tensor);
        else tensor.dispose();
      }
      if (!outer && graph !== 'spare') this.onOutermostEnd();
    }
  }

  /** Puts a new tensor into the innermost scope. */
  add(tensor: Tensor): void {
    this.scopes.at(-1)?.add(tensor);
  }

  /** Removes a tensor from all scopes. */
  remove(tensor: Tensor): void {
    for (const scope of this.scopes) scope.delete(tensor);
  }

  /** Whether a tensor belongs to the innermost scope. */
  has(tensor: Tensor): boolean {
    return this.scopes.at(-1)!.has(tensor);
  }
}
