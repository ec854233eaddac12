/**
 * The time that a training still takes: steps, evaluations, and what follows after the last step. Steps in which
 * kernels were compiled do not count, because they take many times as long as later steps.
 */

/** What a training will do, as far as it takes time. */
export interface PlannedWork {
  readonly iterations: number;
  /** Iterations between evaluations; 0: only the last. */
  readonly evaluateEvery: number;
  /** Images per pass of an evaluation, and passes per step. */
  readonly batchSize: number;
  readonly accumulation: number;
  /** Images of an evaluation. */
  readonly evaluationImages: number;
  /** Images of the test split, which is evaluated once at the end. */
  readonly testImages: number;
  /** Images drawn at the end. */
  readonly drawImages: number;
}

/** The mean covers this number of latest steps. */
const RECENT_STEPS = 50;
/** A forward pass takes about this share of a step. Used until an evaluation was measured. */
const FORWARD_SHARE = 1 / 3;
/** Seconds for drawing an image with its detections, and for the plots. */
const DRAWING_SECONDS = 0.15;
const PLOTTING_SECONDS = 2;

/** Whether an evaluation follows after `iteration` iterations. The last iteration is always evaluated. */
export function isEvaluated(
  iteration: number,
  { iterations, evaluateEvery }: Pick<PlannedWork, 'iterations' | 'evaluateEvery'>,
): boolean {
  return iteration === iterations || (evaluateEvery > 0 && iteration % evaluateEvery === 0);
}

/** Number of evaluations after iteration `from`, up to the last one. */
export function evaluationsAfter(
  from: number,
  { iterations, evaluateEvery }: Pick<PlannedWork, 'iterations' | 'evaluateEvery'>,
): number {
  if (from >= iterations) return 0;
  if (evaluateEvery === 0) return 1;
  const extra = iterations % evaluateEvery === 0 ? 0 : 1;
  return Math.floor(iterations / evaluateEvery) - Math.floor(from / evaluateEvery) + extra;
}

/** Estimates the remaining time from measured steps and evaluations. */
export class TimeLeft {
  private readonly steps: number[] = [];
  private perImage: number | null = null;

  constructor(private plan: PlannedWork) {}

  /** Changes the length of the training; measurements stay. */
  setLength(length: Pick<PlannedWork, 'iterations' | 'evaluateEvery'>): void {
    this.plan = { ...this.plan, ...length };
  }

  /** Steps that the mean covers. */
  get measuredSteps(): number {
    return this.steps.length;
  }

  /** Adds the duration of a step in which nothing was compiled. */
  addStep(seconds: number): void {
    this.steps.push(seconds);
    if (this.steps.length > RECENT_STEPS) this.steps.shift();
  }

  /** Adds the duration of an evaluation. */
  addEvaluation(seconds: number, images: number): void {
    if (images > 0) this.perImage = seconds / images;
  }

  /** Seconds of a step; null before the first measured step. */
  get stepSeconds(): number | null {
    const { length } = this.steps;
    return length === 0 ? null : this.steps.reduce((a, b) => a + b, 0) / length;
  }

  /** Seconds of an evaluation. */
  get evaluationSeconds(): number {
    return this.plan.evaluationImages * this.imageSeconds;
  }

  /** Seconds after the last step and its evaluation: the test split and the pictures. */
  get endSeconds(): number {
    const { testImages, drawImages } = this.plan;
    return (testImages + drawImages) * this.imageSeconds + drawImages * DRAWING_SECONDS + PLOTTING_SECONDS;
  }

  /** Seconds that the training still takes after `iteration` iterations; null before the first measured step. */
  after(iteration: number): number | null {
    const { stepSeconds, plan } = this;
    if (stepSeconds === null) return null;
    const evaluations = evaluationsAfter(iteration, plan) * this.evaluationSeconds;
    return (plan.iterations - iteration) * stepSeconds + evaluations + this.endSeconds;
  }

  /** Seconds of an evaluation for each image. */
  private get imageSeconds(): number {
    const { batchSize, accumulation } = this.plan;
    return this.perImage ?? ((this.stepSeconds ?? 0) * FORWARD_SHARE) / (batchSize * accumulation);
  }
}
