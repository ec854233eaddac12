/** `defineOp`: the one place where an op's shape rule, forward and backward stand together, and where recording happens. */
import { addToTape } from './autograd.ts';
import type { Shape } from './shape.ts';
import type { DType, EarlierGradients, Tensor, TensorDevice } from './tensor.ts';

export type OpInputs = readonly (Tensor | null)[];
/** What forward hands to backward besides inputs and output. */
export type Saved = Readonly<Record<string, Tensor>> | void;

export interface ForwardCall<I extends OpInputs, A> {
  readonly device: TensorDevice;
  readonly inputs: I;
  readonly attributes: A;
  /** Allocated by the shape rule; forward writes every element. */
  readonly output: Tensor;
  /** Whether backward may follow: otherwise nothing need be saved. */
  readonly requiresGrad: boolean;
  /** Whether no gradient follows from anything computed now: then a faster variant may round a little more coarsely (see `Device.inference`). */
  readonly inference: boolean;
  /** Whether operands of products may be rounded to f16: in inference on a device opened with `halfPrecision`. */
  readonly half: boolean;
}

export interface BackwardCall<I extends OpInputs, A, S>
  extends Omit<ForwardCall<I, A>, 'requiresGrad' | 'inference' | 'half'> {
  readonly saved: S;
  /** Gradient of the loss by `output`, of its shape. */
  readonly gradient: Tensor;
  /** Which inputs want a gradient; for the others null may be returned. */
  readonly needs: readonly boolean[];
  /** See EarlierGradients; an op need not ask. */
  readonly earlier: EarlierGradients;
}

/** Vector-Jacobian product: gradients of the inputs, in their order and of their shapes; null where none is wanted or defined. */
export type Vjp<I extends OpInputs, A, S> = (call: BackwardCall<I, A, S>) => readonly (Tensor | null)[];

export interface OpDefinition<I extends OpInputs, A, S extends Saved> {
  readonly name: string;
  /** Checks the inputs (throwing errors that name op and argument) and gives the output's shape. */
  readonly shape: (inputs: I, attributes: A) => { readonly shape: Shape; readonly dtype?: DType };
  /** Writes the output; `alias` instead: the output is the first input under another shape. */
  readonly forward: ((call: ForwardCall<I, A>) => S) | 'alias';
  readonly backward: Vjp<I, A, S> | 'nondifferentiable';
}

/** Name of an op, and whether it has gradients. */
export interface OpInfo {
  readonly opName: string;
  readonly differentiable: boolean;
}

export interface Op<I extends OpInputs, A> extends OpInfo {
  (inputs: I, attributes: A): Tensor;
}

/**
 * The public function of an op: `call`, which carries the op's name. engine/ops/table.ts finds ops by this name, so that
 * every op must have test cases.
 */
export function opFunction<F extends (...args: never[]) => Tensor>(
  { opName, differentiable }: OpInfo,
  call: F,
): F & OpInfo {
  return Object.assign(call, { opName, differentiable });
}

/**
 * Makes a function of an op's definition: it checks the inputs, allocates the output, runs forward in a scope of its own, and records the op where a gradient
 * may be asked for. Throws ShapeError (of the definition's shape rule) where inputs do not fit.
 */
export function defineOp<I extends OpInputs, A, S extends Saved = void>(definition: OpDefinition<I, A, S>): Op<I, A> {
  const { name, backward, forward } = definition;
  const apply = (inputs: I, attributes: A): Tensor => {
    const first = inputs.find((input) => input !== null);
    if (!first) throw new Error(`${name}: needs at least one tensor`);
    const device = first.device;
    for (const input of inputs)
      if (input && input.device !== device) throw new Error(`${name}: all tensors must be on one device`);
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
