/** `defineOp`: makes an op from its shape rule, forward function and backward function. Its calls go on the tape. */
import { addToTape } from './autograd.ts';
import type { Shape } from './shape.ts';
import type { DType, EarlierGradients, Tensor, TensorDevice } from './tensor.ts';

export type OpInputs = readonly (Tensor | null)[];
/** Tensors that forward saves for backward, besides inputs and output. */
// biome-ignore lint/suspicious/noConfusingVoidType: a forward function that saves nothing returns void
export type Saved = Readonly<Record<string, Tensor>> | void;

/** Arguments of a forward function. */
export interface ForwardCall<I extends OpInputs, A> {
  readonly device: TensorDevice;
  readonly inputs: I;
  readonly attributes: A;
  /** The output tensor, allocated with the shape that the shape rule returned. Forward writes every element. */
  readonly output: Tensor;
  /** Whether backward may follow. If not, nothing needs to be saved. */
  readonly requiresGrad: boolean;
  /**
   * Whether no gradient will depend on the current work (`TensorDevice.inference`). Then a faster variant may round
   * more coarsely.
   */
  readonly inference: boolean;
  /** Whether operands of products may be rounded to f16: in inference, on a device opened with `halfPrecision`. */
  readonly half: boolean;
}

/** Arguments of a backward function. */
export interface BackwardCall<I extends OpInputs, A, S>
  extends Omit<ForwardCall<I, A>, 'requiresGrad' | 'inference' | 'half'> {
  readonly saved: S;
  /** Gradient of the loss with respect to `output`, with the shape of `output`. */
  readonly gradient: Tensor;
  /** Which inputs need a gradient. Backward may return null for the others. */
  readonly needs: readonly boolean[];
  /** See EarlierGradients. Backward need not call it: the tape adds the sums that backward does not take. */
  readonly earlier: EarlierGradients;
}

/**
 * Vector-Jacobian product. It returns one gradient per input, in the order of the inputs and with their shapes. Null
 * stands for an input that needs no gradient or has none.
 */
export type Vjp<I extends OpInputs, A, S> = (call: BackwardCall<I, A, S>) => readonly (Tensor | null)[];

export interface OpDefinition<I extends OpInputs, A, S extends Saved> {
  readonly name: string;
  /** Checks the inputs and returns the output's shape. Throws ShapeError with op and argument. */
  readonly shape: (inputs: I, attributes: A) => { readonly shape: Shape; readonly dtype?: DType };
  /** Writes the output. `alias`: the output is the first input with another shape. */
  readonly forward: ((call: ForwardCall<I, A>) => S) | 'alias';
  readonly backward: Vjp<I, A, S> | 'nondifferentiable';
}

/** Name of an op, and whether it has gradients. */
export interface OpInfo {
  readonly opName: string;
  readonly differentiable: boolean;
}

/** An op as a function of its inputs and attributes. */
export interface Op<I extends OpInputs, A> extends OpInfo {
  (inputs: I, attributes: A): Tensor;
}

/**
 * The public function of an op: `call` with the op's name attached. engine/ops/table.ts finds ops by this name,
 * and the tests require cases for each of them.
 */
export function opFunction<F extends (...args: never[]) => Tensor>(
  { opName, differentiable }: OpInfo,
  call: F,
): F & OpInfo {
  return Object.assign(call, { opName, differentiable });
}

/**
 * Makes a function from an op's definition. The function checks the inputs, allocates the output, and runs forward in
 * its own scope. It puts the op on the tape if an input requires a gradient.
 * The function throws the ShapeError of the shape rule if the inputs do not fit.
 */
export function defineOp<I extends OpInputs, A, S extends Saved = void>(definition: OpDefinition<I, A, S>): Op<I, A> {
  const { name, backward, forward } = definition;
  const apply = (inputs: I, attributes: A): Tensor => {
    const first = inputs.find((input) => input !== null);
    if (!first) throw new Error(`${name}: inputs: expected at least one tensor, got none`);
    const device = first.device;
    for (const input of inputs)
      if (input && input.device !== device)
        throw new Error(`${name}: inputs: expected tensors of one device, got several`);
    const { shape, dtype = 'f32' } = definition.shape(inputs, attributes);
    const requiresGrad =
      backward !== 'nondifferentiable' && device.gradEnabled && inputs.some((input) => input?.requiresGrad);
    if (forward === 'alias') {
      const output = device.alias(first, shape);
      if (requiresGrad) attach(output, undefined as S);
      return output;
    }
    return device.opScope(() => {
      const output = device.empty(shape, dtype);
      const { inference } = device;
      const half = inference && device.halfPrecision;
      const run = (): S => forward({ device, inputs, attributes, output, requiresGrad, inference, half });
      const saved = device.noGrad(inference ? () => device.keepingOperands(run) : run);
      if (requiresGrad) attach(output, saved);
      return output;
    });

    function attach(output: Tensor, saved: S): void {
      if (backward === 'nondifferentiable') return;
      if (saved) for (const tensor of Object.values(saved)) tensor.inGraph = true;
      const needs = inputs.map((input) => input?.requiresGrad ?? false);
      addToTape(name, inputs, output, (gradient, earlier) =>
        backward({ device, inputs, attributes, output, saved, gradient, needs, earlier }),
      );
    }
  };
  return Object.assign(apply, { opName: name, differentiable: backward !== 'nondifferentiable' });
}
