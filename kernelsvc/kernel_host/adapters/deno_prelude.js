// Called once in Deno's kernel, before any code of the session's (see deno.py), with the paths of the
// files that stdout and stderr are written to.
//
// In Jupyter, Deno (2.9) keeps each print in memory until it has been sent, however many there are,
// and drops what is written to its stdout by other means. Here all of it is written to the two files,
// at once, and waits where nobody reads.
async (paths) => {
  const { createRequire } = await import("node:module");
  const { default: process } = await import("node:process");
  const { Buffer } = await import("node:buffer");
  const { Console } = Deno[Deno.internal];
  const { parse } = JSON;
  const own = (object, name, value) =>
    Object.defineProperty(object, name, { value, writable: true, configurable: true });

  const encoder = new TextEncoder();
  const files = paths.map((path) => Deno.openSync(path, { write: true }));
  const write = (file, data, encoding) => {
    let bytes = encoder.encode(typeof data === "string" ? data : "");
    if (typeof data !== "string") {
      bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    } else if (encoding !== undefined) {
      bytes = Buffer.from(data, encoding);
    }
    const size = bytes.length;
    while (bytes.length) bytes = bytes.subarray(file.writeSync(bytes));
    return size;
  };
  own(globalThis, "console", new Console((text, level) => write(files[level > 1 ? 1 : 0], text)));
  for (const [file, node, deno] of [
    [files[0], process.stdout, Deno.stdout],
    [files[1], process.stderr, Deno.stderr],
  ]) {
    own(node, "write", (data, encoding, done) => {
      const then = typeof encoding === "function" ? encoding : done;
      write(file, data, typeof encoding === "string" ? encoding : undefined);
      if (then) queueMicrotask(() => then());
      return true;
    });
    own(deno, "writeSync", (data) => write(file, data));
    own(deno, "write", (data) => Promise.resolve(write(file, data)));
  }

  own(globalThis, "require", createRequire(`${Deno.cwd()}/`));

  // The run that is going on: the variables that it was given as they were before, the status that
  // it exits with, and whether something failed that nobody waited for.
  let run = null;
  class KernelsvcExit extends Error {
    name = "KernelsvcExit";
  }
  const endProcess = Deno.exit;
  const later = setTimeout;
  const exit = (code) => {
    const status = Number(code ?? process.exitCode ?? 0) & 255;
    if (run === null) endProcess(status);
    const exiting = run;
    exiting.status ??= status;
    // Nothing else ends code that has caught the exception, or that waits while a callback exits.
    later(() => run === exiting && endProcess(status), 100);
    throw new KernelsvcExit(`exit ${status}`);
  };
  Deno.exit = exit;
  process.exit = exit;
  process.reallyExit = exit;

  // Unless somebody hears of them, Deno's kernel stops working where these come.
  const tell = (event, what, error) => {
    event.preventDefault();
    if (error instanceof KernelsvcExit) return;
    if (run !== null) run.failed = true;
    write(files[1], `${what} ${Deno.inspect(error)}\n`);
  };
  addEventListener("error", (event) => tell(event, "Uncaught", event.error));
  addEventListener(
    "unhandledrejection",
    (event) => tell(event, "Uncaught (in promise)", event.reason),
  );

  const restore = () => {
    for (const [name, value] of run?.before ?? []) {
      value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value);
    }
    run = null;
  };
  own(globalThis, Symbol.for("kernelsvc"), {
    begin(variables) {
      // An interrupt may have cut the end of the one before short.
      restore();
      run = { before: new Map(), status: undefined, failed: false };
      for (const [name, value] of Object.entries(parse(variables))) {
        run.before.set(name, Deno.env.get(name));
        Deno.env.set(name, value);
      }
      // A run that requires the same file again runs it again, and files may have changed.
      for (const path of Object.keys(require.cache)) {
        if (path.startsWith(`${Deno.cwd()}/`) && !path.includes("/node_modules/")) {
          delete require.cache[path];
        }
      }
    },
    async end() {
      const { status = process.exitCode, failed } = run;
      process.exitCode = undefined;
      restore();
      const exitCode = status === undefined ? null : Number(status) & 255;
      await Deno.jupyter.broadcast("kernelsvc_end", { exit_code: exitCode, failed });
    },
  });
}
