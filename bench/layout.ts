/** Conversions between our tensor layouts (channels last) and those of PyTorch, jax-js and ONNX (channels first). */

/** [N, H, W, C] to [N, C, H, W]. */
export function channelsFirst(data: ArrayLike<number>, [n, h, w, c]: readonly number[]): Float32Array<ArrayBuffer> {
  return transposed(data, n, h * w, c);
}

/** [N, C, H, W] to [N, H, W, C]. */
export function channelsLast(data: ArrayLike<number>, [n, c, h, w]: readonly number[]): Float32Array<ArrayBuffer> {
  return transposed(data, n, c, h * w);
}

/** Transposes each of `count` matrices [rows, columns]. */
function transposed(data: ArrayLike<number>, count: number, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let i = 0; i < count; i++)
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        out[(i * columns + column) * rows + row] = data[(i * rows + row) * columns + column];
  return out;
}

/** Weights [kh, kw, C, O] to [O, C, kh, kw]. */
export function outputsFirst(data: ArrayLike<number>, [kh, kw, c, o]: readonly number[]): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let at = 0; at < kh * kw; at++)
    for (let i = 0; i < c; i++)
      for (let j = 0; j < o; j++) out[(j * c + i) * kh * kw + at] = data[(at * c + i) * o + j];
  return out;
}

/** Weights [O, C, kh, kw] to [kh, kw, C, O]. */
export function outputsLast(data: ArrayLike<number>, [o, c, kh, kw]: readonly number[]): Float32Array<ArrayBuffer> {
  const out = new Float32Array(data.length);
  for (let at = 0; at < kh * kw; at++)
    for (let i = 0; i < c; i++)
      for (let j = 0; j < o; j++) out[(at * c + i) * o + j] = data[(j * c + i) * kh * kw + at];
  return out;
}
