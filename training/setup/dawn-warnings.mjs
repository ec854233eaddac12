// @ts-check
/**
 * Removes two warnings that Dawn prints on stderr for every adapter of most drivers. The warnings say that Dawn lowers
 * the limits maxDynamicUniformBuffersPerPipelineLayout and maxDynamicStorageBuffersPerPipelineLayout. The engine uses
 * no dynamic offsets.
 *
 * Dawn's native code writes the warnings directly to file descriptor 2, and has no option against them. Node cannot
 * redirect a file descriptor of its own process. So the parent of Dawn's process removes the warnings.
 */
import { Transform } from 'node:stream';

const START = 'Warning: maxDynamic';
const WARNING = new RegExp(
  `${START}(?:Uniform|Storage)BuffersPerPipelineLayout artificially reduced from \\d+ to \\d+ ` +
    'to fit dynamic offset allocation limit\\.\\r?\\n',
  'g',
);
/** A longer unfinished line is not one of the warnings. */
const MAX_LENGTH = 200;

/** @param {string} text */
export const removeDawnWarnings = (text) => text.replace(WARNING, '');

/** A stream that removes the warnings and passes all other text on at once. */
export class DawnWarningFilter extends Transform {
  /** The start of a line that may become a warning, in Latin-1, which keeps all bytes. */
  pending = '';

  /** @override @param {Buffer} chunk @param {BufferEncoding} _ @param {() => void} done */
  _transform(chunk, _, done) {
    const text = removeDawnWarnings(this.pending + chunk.toString('latin1'));
    const at = unfinishedWarning(text);
    this.pending = text.slice(at);
    this.push(Buffer.from(text.slice(0, at), 'latin1'));
    done();
  }

  /** @override @param {() => void} done */
  _flush(done) {
    this.push(Buffer.from(this.pending, 'latin1'));
    done();
  }
}

/**
 * The position of an unfinished warning at the end of a text; the text's length if there is none.
 * @param {string} text
 */
function unfinishedWarning(text) {
  const at = text.lastIndexOf('W');
  const rest = at < 0 ? '' : text.slice(at);
  const unfinished = START.startsWith(rest) || (rest.startsWith(START) && !rest.includes('\n'));
  return rest && unfinished && rest.length < MAX_LENGTH ? at : text.length;
}
