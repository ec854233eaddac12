/** An HTTP server for tests that serves one file, and misbehaves on request. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** How the server answers one request. */
export interface Behavior {
  /** Another status than 200 or 206, without the file. */
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sends this text with status 200 instead of the file. */
  readonly page?: string;
  /** Breaks the connection after this number of bytes of the body. */
  readonly cutAfter?: number;
  /** Sends nothing more after this number of bytes of the body, and keeps the connection open. */
  readonly stallAfter?: number;
  /** Ignores the header Range. */
  readonly ranges?: false;
  /** Answers a Range with this first byte. */
  readonly rangeStart?: number;
  /** Sends no Content-Length, and ends after `cutAfter` bytes without an error. */
  readonly chunked?: true;
  /** ETag of the file; null: none. */
  readonly etag?: string | null;
  /** Serves these bytes instead. */
  readonly bytes?: Uint8Array;
}

export interface FileServer {
  readonly address: (name: string) => string;
  /** The behavior for the next requests, in order; afterwards the server behaves well. */
  behaviors: Behavior[];
  /** The headers of the requests so far. */
  readonly requests: IncomingMessage['headers'][];
  readonly close: () => Promise<void>;
}

/** Serves `bytes` under every path. `/redirect/NAME` redirects to `/NAME`. */
export async function serveFile(bytes: () => Uint8Array): Promise<FileServer> {
  const requests: IncomingMessage['headers'][] = [];
  const state: { behaviors: Behavior[] } = { behaviors: [] };
  const server = createServer((request, response) => {
    if (request.url?.startsWith('/redirect/')) {
      response.writeHead(302, { location: request.url.slice('/redirect'.length) }).end();
      return;
    }
    requests.push(request.headers);
    answer(request, response, bytes(), state.behaviors.shift() ?? {});
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(state, {
    address: (name: string) => `http://127.0.0.1:${port}/${name}`,
    requests,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  });
}

function answer(request: IncomingMessage, response: ServerResponse, file: Uint8Array, behavior: Behavior): void {
  const { status, headers = {}, page, etag = '"first"' } = behavior;
  if (status !== undefined) {
    response.writeHead(status, headers).end('no');
    return;
  }
  if (page !== undefined) {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8', ...headers }).end(page);
    return;
  }
  const bytes = behavior.bytes ?? file;
  const start = rangeStart(request, behavior);
  if (start !== null && start >= bytes.length) {
    response.writeHead(416, { 'content-range': `bytes */${bytes.length}` }).end();
    return;
  }
  const body = bytes.subarray(start ?? 0);
  response.writeHead(start === null ? 200 : 206, {
    'content-type': 'application/octet-stream',
    ...(behavior.chunked ? {} : { 'content-length': String(body.length) }),
    ...(start === null ? {} : { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` }),
    ...(etag === null ? {} : { etag }),
    ...headers,
  });
  const { cutAfter, stallAfter } = behavior;
  if (behavior.chunked) response.end(body.subarray(0, cutAfter));
  else if (cutAfter !== undefined) response.write(body.subarray(0, cutAfter), () => response.destroy());
  else if (stallAfter !== undefined) response.write(body.subarray(0, stallAfter));
  else response.end(body);
}

/** The first byte of the requested range; null if the whole file is sent. */
function rangeStart(request: IncomingMessage, { ranges, rangeStart, etag = '"first"' }: Behavior): number | null {
  const match = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
  if (!match || ranges === false) return null;
  const condition = request.headers['if-range'];
  if (condition !== undefined && condition !== etag) return null;
  return rangeStart ?? Number(match[1]);
}
