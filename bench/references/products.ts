/** References of matrix products and convolutions. */
import { type HostArray, type Reference, sigma } from './reference.ts';

/** The product of a and b, each transposed or not, for each entry of the batch. Both operands have the same batch. */
export function matmulReference(
  a: HostArray,
  b: HostArray,
  { transposeA, transposeB }: { readonly transposeA: boolean; readonly transposeB: boolean },
  upstream: HostArray,
): Reference {
  const [rowsA, columnsA] = a.shape.slice(-2);
  const [rowsB, columnsB] = b.shape.slice(-2);
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const n = transposeB ? rowsB : columnsB;
  const atA = (batch: number, i: number, j: number): number =>
    a.data[batch * m * k + (transposeA ? j * m + i : i * k + j)];
  const atB = (batch: number, i: number, j: number): number =>
    b.data[batch * k * n + (transposeB ? j * k + i : i * n + j)];
  const atG = (batch: number, i: number, j: number): number => upstream.data[(batch * m + i) * n + j];
  const split = (index: number, rows: number, columns: number): [batch: number, row: number, column: number] => [
    Math.floor(index / (rows * columns)),
    Math.floor(index / columns) % rows,
    index % columns,
  ];
  return {
    output: (index) => {
      const [batch, i, j] = split(index, m, n);
      return sigma(k, (l) => atA(batch, i, l) * atB(batch, l, j));
    },
    gradients: {
      a: (index) => {
        const [batch, row, column] = split(index, rowsA, columnsA);
        const [i, l] = transposeA ? [column, row] : [row, column];
        return sigma(n, (j) => atG(batch, i, j) * atB(batch, l, j));
      },
      b: (index) => {
        const [batch, row, column] = split(index, rowsB, columnsB);
        const [l, j] = transposeB ? [column, row] : [row, column];
        return sigma(m, (i) => atA(batch, i, l) * atG(batch, i, j));
      },
    },
  };
}

/** Cross-correlation: x [B, H, W, C], weight [kh, kw, C / groups, O]. */
export function conv2dReference(
  x: HostArray,
  weight: HostArray,
  { stride, padding, groups }: { readonly stride: number; readonly padding: number; readonly groups: number },
  upstream: HostArray,
): Reference {
  const [, H, W, C] = x.shape;
  const [kh, kw, groupC, O] = weight.shape;
  const [B, OH, OW] = upstream.shape;
  const groupO = O / groups;
  const atX = (b: number, y: number, column: number, c: number): number =>
    y < 0 || y >= H || column < 0 || column >= W ? 0 : x.data[((b * H + y) * W + column) * C + c];
  const atW = (ky: number, kx: number, c: number, o: number): number =>
    weight.data[((ky * kw + kx) * groupC + c) * O + o];
  const atG = (b: number, y: number, column: number, o: number): number =>
    upstream.data[((b * OH + y) * OW + column) * O + o];
  return {
    output: (index) => {
      const [o, ox, oy, b] = [
        index % O,
        Math.floor(index / O) % OW,
        Math.floor(index / (O * OW)) % OH,
        Math.floor(index / (O * OW * OH)),
      ];
      const first = Math.floor(o / groupO) * groupC;
      return sigma(kh, (ky) =>
        sigma(kw, (kx) =>
          sigma(
            groupC,
            (c) => atX(b, oy * stride + ky - padding, ox * stride + kx - padding, first + c) * atW(ky, kx, c, o),
          ),
        ),
      );
    },
    gradients: {
      x: (index) => {
        const [c, ix, iy, b] = [
          index % C,
          Math.floor(index / C) % W,
          Math.floor(index / (C * W)) % H,
          Math.floor(index / (C * W * H)),
        ];
        const group = Math.floor(c / groupC);
        return sigma(kh, (ky) =>
          sigma(kw, (kx) => {
            const [oy, ox] = [(iy + padding - ky) / stride, (ix + padding - kx) / stride];
            if (!Number.isInteger(oy) || !Number.isInteger(ox) || oy < 0 || ox < 0 || oy >= OH || ox >= OW) return 0;
            return sigma(
              groupO,
              (o) => atG(b, oy, ox, group * groupO + o) * atW(ky, kx, c % groupC, group * groupO + o),
            );
          }),
        );
      },
      weight: (index) => {
        const [o, c, kx, ky] = [
          index % O,
          Math.floor(index / O) % groupC,
          Math.floor(index / (O * groupC)) % kw,
          Math.floor(index / (O * groupC * kw)),
        ];
        const channel = Math.floor(o / groupO) * groupC + c;
        return sigma(B, (b) =>
          sigma(OH, (oy) =>
            sigma(
              OW,
              (ox) => atG(b, oy, ox, o) * atX(b, oy * stride + ky - padding, ox * stride + kx - padding, channel),
            ),
          ),
        );
      },
    },
  };
}
