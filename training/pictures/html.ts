/** Text in HTML and SVG. */

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** A text as it must stand in HTML, in elements and in quoted attributes. Control characters become visible. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]).replace(/\p{Cc}/gu, visible);
}

const visible = (control: string): string => (control === '\n' || control === '\t' ? ' ' : '\ufffd');
