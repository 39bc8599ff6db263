// Run a Python program under Pyodide: node run.mjs FOLDER PROGRAM WHEEL...   (FOLDER: where the package lies)
import { readFileSync } from "node:fs";
import { loadPyodide } from "pyodide";

const [folder, program, ...wheels] = process.argv.slice(2);
try {
  const python = await loadPyodide();
  for (const wheel of wheels) {
    python.unpackArchive(new Uint8Array(readFileSync(wheel)), "wheel", { extractDir: "/packages" });
  }
  python.mountNodeFS("/source", folder);
  python.runPython("import sys; sys.path[:0] = ['/packages', '/source']");
  python.runPython(readFileSync(program, "utf-8"), { filename: program });
} catch (error) {
  console.error(error.message ?? error); // an uncaught one would show a megabyte of Pyodide's source instead
  process.exitCode = 1;
}
