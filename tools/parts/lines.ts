/** Cuts text into lines at \n, \r\n or a lone \r; the last line needs no end. */
export class TextLineStream extends TransformStream<string, string> {
  constructor() {
    let rest = "";
    super({
      transform(chunk, controller) {
        rest += chunk;
        // A \r at the very end may be the first half of \r\n.
        const held = rest.endsWith("\r") ? "\r" : "";
        const lines = rest.slice(0, rest.length - held.length).split(/\r\n|\n|\r/);
        rest = (lines.pop() ?? "") + held;
        for (const line of lines) controller.enqueue(line);
      },
      flush(controller) {
        const last = rest.replace(/\r$/, "");
        if (last !== "") controller.enqueue(last);
      },
    });
  }
}
